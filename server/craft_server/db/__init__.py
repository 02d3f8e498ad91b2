"""The database: tables, schema revisions, transactions and group commit."""
