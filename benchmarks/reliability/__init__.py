"""What faults, hostile requests and long runs do to ledger, memory and results."""
