"""The database: the tables, every write of execution state (journal), the reads (queries), migrations."""
