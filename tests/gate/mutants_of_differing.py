"""Broken personal budgets and participation. Client and server are broken alike, so that neither refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from fedtoll.clients import train as clients
from fedtoll.clients import wire
from fedtoll.clients.engines import sampling
from fedtoll.privacy import accounting, constants, ledger
from fedtoll.privacy.ledger import Ledger, Release
from fedtoll.scenarios import by_client, participation
from fedtoll.scenarios.participation import Attendance, Participation
from fedtoll.scenarios.run import Run
from fedtoll.server import adapter, strict
from fedtoll.server.strict import Strict
from tests.gate.mutants import keys, mutant, noising
from tests.gate.mutants_outside_engines import no_memory, recorded

# Personal budgets.


def _factors(change: Any) -> list[Any]:
    original = constants.factors_of

    def factors(*args: Any) -> list[float]:
        return list(change(original(*args), args[1]))

    return [patch.object(constants, "factors_of", factors)]


@mutant("the share of ε of one group is applied to the other")
def share_of_the_wrong_group() -> list[Any]:
    return _factors(lambda factors, _: factors[::-1])


@mutant("every client of a group gets its group's share, whatever its own entry says")
def own_share_ignored() -> list[Any]:
    def by_group(factors: list[float], members: Sequence[Any]) -> list[float]:
        first = {m.group: x for m, x in reversed(list(zip(members, factors, strict=True)))}
        return [first[m.group] for m in members]

    return _factors(by_group)


@mutant("shares of ε are recorded, but the noise is calibrated for all of ε")
def noise_for_the_whole_budget() -> list[Any]:
    original = constants.client_of

    def client(
        scenario: Any, one: Any, epsilon: float, statistics: Any, factor: float = 1.0, *turns: Any
    ) -> Any:
        return original(scenario, one, epsilon / factor, statistics, factor, *turns)

    return [patch.object(constants, "client_of", client)]


@mutant("all clients of a round add the noise of the one that needs least")
def noise_of_the_laxest_client() -> list[Any]:
    return noising(
        lambda run, task: min(c.noise_multiplier for c in run.clients) / task.plan.noise_multiplier
    )


@mutant("the ledger of a client with a smaller share has the σ of the others")
def ledger_of_the_laxest_client() -> list[Any]:
    def change(rows: Sequence[Release]) -> list[Release]:
        return [replace(r, noise_multiplier=0.9 * r.noise_multiplier) for r in rows]

    return recorded(change)


@mutant("a client that holds records of several groups has the share of one of them")
def mixed_client_has_a_groups_share() -> list[Any]:
    return [patch.object(by_client, "_check_clients", lambda *_: None)]


# Calibration and the ledger of participation.


def _turns(change: Any) -> list[Any]:
    """Patch in how many rounds the plan believes a client to take part."""
    original = constants.turns_of

    def turns(scenario: Any, members: Any, rounds: int) -> Any:
        found = original(scenario, members, rounds)
        return found if found[0] is None else [change(scenario, m, n) for m, n in zip(members, found)]  # noqa: B905

    return [patch.object(constants, "turns_of", turns)]


@mutant("the noise is calibrated for all rounds, although a client takes part in some")
def calibrated_for_all_rounds() -> list[Any]:
    return _turns(lambda scenario, member, turns: int(scenario.training.rounds))


@mutant("the noise is calibrated for one round less than a client takes part in")
def calibrated_for_a_round_less() -> list[Any]:
    return _turns(lambda scenario, member, turns: max(1, turns - 1))


@mutant("the noise is calibrated for the expected number of rounds, not for the schedule's")
def calibrated_for_expected_rounds() -> list[Any]:
    original = constants.turns_of

    def turns(scenario: Any, members: Any, rounds: int) -> Any:
        if scenario.participation.kind == "all":
            return original(scenario, members, rounds)
        chances = participation.chances_of(scenario.participation, members)
        return [max(1, round(float(chance) * rounds)) for chance in chances]

    return [patch.object(constants, "turns_of", turns)]


@mutant("amplification by a secret choice of who takes part is claimed, but everybody sees it")
def amplification_for_visible_participation() -> list[Any]:
    original, of, client_of = accounting.epsilon, Ledger.of, constants.client_of
    claims = {"now": False}

    def epsilon(events: Any, *rest: Any) -> float:
        factor = 0.5 if claims["now"] else 1.0
        return original([replace(e, sampling_rate=e.sampling_rate * factor) for e in events], *rest)

    def ledger_of(run: Run) -> Ledger:
        claims["now"] = run.participation is not None
        return of(run)

    def client(scenario: Any, *rest: Any) -> Any:
        claims["now"] = scenario.participation.kind != "all"
        return client_of(scenario, *rest)

    return [
        *(patch.object(owner, "epsilon", epsilon) for owner in (accounting, ledger)),
        *(patch.object(Ledger, "of", staticmethod(ledger_of)), patch.object(constants, "client_of", client)),
        *no_memory(),
    ]


@mutant("a client that is asked but does not answer is not charged")
def silent_client_not_charged() -> list[Any]:
    owed, check = ledger.owed, Strict._check

    def checks(self: Strict, client: int, message: Any, reply: Any) -> None:
        round = strict._round(message)
        turn = self.attendance.turn(self._places[client], round)
        self.ledger.charge(owed(self._plan, self._clients[client], round, turn))
        check(self, client, message, reply)

    return [patch.object(strict, "owed", lambda *_: ()), patch.object(Strict, "_check", checks)]


@mutant("the ledger starts again after a round in which the client was away")
def ledger_reset_by_absence() -> list[Any]:
    original = Ledger.charge

    def charge(self: Ledger, releases: Any) -> None:
        releases = list(releases)
        for release in releases:
            before = max((r.round for r in self.releases_of(release.client)), default=release.round)
            if release.round > before + 1:
                self._counts[release.client] = {}
        original(self, releases)

    return [patch.object(Ledger, "charge", charge)]


@mutant("a client's rounds after the third are released but not charged")
def rounds_after_the_third_not_charged() -> list[Any]:
    def until(rows: Sequence[Release]) -> list[Release]:
        return [r if r.round <= 3 else replace(r, count=0) for r in rows]

    return recorded(until)


@mutant("statistics are released in every round of a client, but charged in every other")
def statistics_in_every_round() -> list[Any]:
    original, reply, metrics = clients._answers, clients._reply, Strict._metrics

    def answers(cohort: Any, task: Any, groups: Any, turn: int) -> Any:
        return original(cohort, task, groups, 1)

    def replies(job: Any, trained: Any) -> Any:
        turn = job.run.attendance.turn(job.task.plan.id, job.task.round)
        charged = [(s, e) for s, e in job.answers if s.due(turn)]
        honest = reply(replace(job, answers=charged), trained)
        for statistic, estimate in job.answers:
            honest.content.metric_records["metrics"][statistic.name] = (
                np.ravel(estimate.value).tolist() if np.ndim(estimate.value) else float(estimate.value)
            )
            honest.content.metric_records["metrics"][f"{statistic.name}.sd"] = estimate.sd
        return honest

    def lenient(self: Strict, client: int, round: int) -> Any:
        first = self.attendance.rounds(self._places[client])[0]
        return metrics(self, client, first)

    return [
        patch.object(clients, "_answers", answers),
        patch.object(clients, "_reply", replies),
        patch.object(Strict, "_metrics", lenient),
    ]


# The schedule.


def _drawn(change: Any) -> list[Any]:
    """Patch who takes part, for the plan and for all that draw the schedule from a run."""
    return [patch.object(Attendance, "draw", staticmethod(change))]


@mutant("the schedule is drawn from a checksum of the records")
def schedule_depends_on_records() -> list[Any]:
    original = Attendance.draw

    def attendance(self: Run) -> Attendance:
        rule = self.participation
        if rule is not None:
            rule = rule.model_copy(update={"seed": int(self.checksum[:7], 36) % 2**32})
        return original(rule, self.clients, self.rounds)

    return [patch.object(Run, "attendance", property(attendance))]


@mutant("the same clients take part in every round")
def schedule_of_the_first_round() -> list[Any]:
    original = Attendance.draw

    def draw(rule: Participation | None, members: Any, rounds: int, secret: int = 0) -> Attendance:
        first = original(rule, members, 1).present_TK
        present = np.repeat(first, rounds, axis=0)
        return Attendance(present, np.cumsum(present, axis=0, dtype=np.int64))

    return _drawn(draw)


@mutant("availability by group is that of the other group")
def availability_of_the_wrong_group() -> list[Any]:
    original = participation.chances_of
    return [patch.object(participation, "chances_of", lambda *args: original(*args)[::-1])]


@mutant("a client answers whoever asks, in rounds that are not its own too")
def answers_in_any_round() -> list[Any]:
    original = clients.Clients._cohort_of

    class Always(Attendance):
        def turn(self, client: int, round: int) -> int:
            return super().turn(client, round) or 1

    def cohort_of(self: Any, text: str) -> Any:
        cohort = original(self, text)
        cohort.attendance = Always(cohort.attendance.present_TK, cohort.attendance.turns_TK)
        return cohort

    return [patch.object(clients.Clients, "_cohort_of", cohort_of)]


@mutant("clients that take part are asked, and so are the others, whose replies are thrown away uncharged")
def others_are_asked_in_vain() -> list[Any]:
    original = Strict.send_and_receive

    def send(self: Strict, messages: Any, *, timeout: float | None = None) -> Any:
        from flwr.app import Message
        from flwr.app.message_type import MessageType

        sent = list(messages)
        if sent:
            asked = {m.metadata.dst_node_id for m in sent}
            others = [node for node in self.client_of if node not in asked]
            spare = [Message(sent[0].content, node, MessageType.TRAIN) for node in others]
            if spare:
                self._grid.send_and_receive(spare, timeout=timeout)
        return original(self, sent, timeout=timeout)

    return [patch.object(Strict, "send_and_receive", send)]


@mutant("in a round that nobody joins, the last round's update is added again")
def last_update_again() -> list[Any]:
    original = adapter.Adapted.aggregate_train

    def aggregate(self: Any, server_round: int, replies: Any) -> Any:
        before = self._params
        arrays, metrics = original(self, server_round, replies)
        if self._strict.attendance.clients(server_round):
            self._step = [b - a for a, b in zip(before, arrays.to_numpy_ndarrays(), strict=True)]
            return arrays, metrics
        again = [a + b for a, b in zip(before, getattr(self, "_step", before), strict=True)]
        return wire.encoded(again), metrics

    return [patch.object(adapter.Adapted, "aggregate_train", aggregate)]


# Noise.


@mutant("the noise is nine tenths in rounds that not everybody joins")
def less_noise_if_some_are_away() -> list[Any]:
    return noising(lambda run, task: 1.0 if run.participation is None else 0.9)


@mutant("a client that returns from an absence adds the noise of its last round again")
def noise_again_after_an_absence() -> list[Any]:
    original = sampling.noise_keys

    def key(run: Run, task: Any) -> Any:
        earlier = run.attendance.rounds(task.plan.id, task.round)
        away = len(earlier) > 1 and earlier[-2] < task.round - 1
        return original(run, replace(task, round=earlier[-2]) if away else task)

    return keys(key)
