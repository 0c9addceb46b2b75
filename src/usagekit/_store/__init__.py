"""Where accepted events lie: journals, the ledger they are imported into, and delivery out of it."""
