"""The words of docs/prices.md and docs/changes.md; prices_page puts in the figures."""

PRICES = """# Prices in the library

Where does privacy cost one group more than another, once every constant is chosen for each ε? And does a
[strategy](strategies.md) narrow that gap? This page answers for the built-in scenarios, and for changes of
six of them: {cells} cells. (The scenario `{later}` was made from its cell *law-race + network*.)

{summary}

The [price](definitions.md#price-at-best-constants) of a group is what it loses at the best constants; the
price gap is that of the group that pays most minus that of the group that pays least, in nats of log-loss.
The *recipe gap* is the same at the scenario's own constants for every ε: what a study without tuning would
report. No recipe of the library was made for ε = 0.1: their smallest ε is 0.5 or 0.2.

## How it was searched

The search was fixed in `benchmarks/prices.py` before it was run; nothing on this page was left out because
of its result.

- **search**: FedAvg alone at ε = ∞, 1, 0.5 and 0.1, seeds {search}; {factors} learning rates, from an
  eighth of the recipe's to eight times as much, chosen at each ε on the public validation part with two
  other seeds.
- **confirm**: where the search finds a gap, seeds {confirm} with choices made anew.
- A gap is *found* if its conservative 95% interval (all pairs of groups, Bonferroni) lies above 0. It is
  *real* if both stages find it at the same ε. One below {least} nats in either is called *small*. One whose
  second stage has not been run yet was *found once*.
- **strategies**: where a real gap is not small, {strategies} strategies besides FedAvg at the largest such ε,
  with the same learning rates and 16 seeds, against FedAvg with Holm over all strategies and quantities of a
  cell. (23 strategies and 20 seeds were planned; the cut came after the search and before any strategy ran.)
  What changes the gap or disparity is run once more with seeds {confirm}.
- **What is tuned** is the learning rate, for every strategy and ε alike. The clip is the recipe's, and
  parameters of strategies are fixed: {settings},
  and otherwise the defaults. Several are strong settings; a milder one may do less harm, or less good.
- **What choosing may do**: with this grid and two seeds, two copies of one strategy choose different rates
  now and then, and in 9.7% of families a difference was
  [significant](definitions.md#interval-and-test-together), mostly in everybody's utility. Choices made anew
  in the second stage guard against it.

The intervals of one cell are simultaneous over its groups, not over cells and ε: of some 130 gaps, a few
would be found once where there is none. That is why they are confirmed.

## All {cells} cells

Gaps under FedAvg in the search, in nats. A star marks a gap that the search finds. A dagger says that the
choice at this ε, or at ∞, is the smallest or the largest of the rates: with more of them, or more rounds, the
price might be another. A double dagger says that the model of everybody is
[collapsed](definitions.md#collapsed) in half of the seeds or more: it predicts one class at 0.5, or is not
shown to rank better than chance. Then the price is that of losing what the model knew.{missing}

{gaps}

## Gaps that were found

With intervals. "pays most", "everybody" (everybody's price) and "collapsed" (the model of everybody, in which
share of the seeds) are those of the second stage.

{confirmed}

## What strategies change

Only changes that are significant in a stage are listed; all strategies were tried that the scenario accepts.
Each chose its own learning rate, like FedAvg. "second stage only" is a change that only the second stage
finds, in a smaller family; it is not confirmed. A negative difference in the price gap or disparity is
fairer; a negative one in everybody's utility is worse. The price gap is about what privacy adds, the
disparity about how much the groups differ at this ε, for whatever reason.

{changes}{uncompared}

## Strategies in the scenarios as they are

Does a strategy change the gap or disparity in library scenarios, whether their price gap is real or not?
This part was added after the others had been seen, and fixed before it ran: those of the {fourteen}
strategies of version 0.1.0 that the scenario accepts (FedAvg is one), at both ε = 1 and 0.5, tuned and tested
as above, with Holm over all strategies and quantities of a scenario at both ε. The table names what was
found and confirmed. Changes may be small: see [all of them with intervals](changes.md). `{later}` is left
out: its cell is above.

`epsilon-weighted` ran too, and is one of the {fourteen}. In all cells of this page all clients have the same
ε; then it is `uniform` to the bit, and it is neither counted nor listed.

A price compares a strategy with itself at ε = ∞. So a strategy can widen the price gap because it is fairer
without privacy: in `synthetic-shift`, the private models of `noise-fair` are FedAvg's but for rounding, and
only its models at ε = ∞ differ. Read the gap with the disparity and everybody's utility.

{library}

The figures are in `benchmarks/prices.json`. All have numerics {numerics}: a version of fedtoll with the same
number trains the same models. To measure a cell again: `python -m benchmarks.prices search FOLDER law-race`.
"""


CHANGES = """# Strategies in library scenarios, with intervals

Every strategy of version 0.1.0 that changed the price gap or disparity of a library scenario significantly
against FedAvg, tuned against tuned, at ε = 1 or 0.5. The learning rate was tuned, and nothing else.
Parameters of strategies: {settings},
and otherwise the defaults. [Prices in the library](prices.md) says how this was found, sums it up, and names
the scenarios that have not been run yet.

A difference is in nats of log-loss; a negative one is fairer. "again" is the same on other seeds, with
choices made anew, and "confirmed" says whether both are significant in the same direction; "second stage
only" is not. "everybody" is the difference in everybody's utility in the first stage; a negative one is
worse. "none": no strategy changed either quantity significantly.

{changes}
"""
