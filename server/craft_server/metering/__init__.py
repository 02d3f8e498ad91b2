"""Budgets that cannot be overshot: reservations, settlement, the ledger and its audits."""
