"""What was spent? Accounting, calibration, the ledger of releases, and the ε of each part of it."""
