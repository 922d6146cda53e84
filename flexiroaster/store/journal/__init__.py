"""The only writer of execution state: `transitions` as values, the `writer` groups them, and a back end per database."""
