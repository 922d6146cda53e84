"""The database: tables, the journal (every write of execution state), queries and migrations."""
