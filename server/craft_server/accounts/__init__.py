"""Who may ask: keys, tokens, policies, rate limits and the audit log."""
