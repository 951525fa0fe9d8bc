"""What was spent? Accounting, calibration, the ledger of releases, and what each part of it costs."""
