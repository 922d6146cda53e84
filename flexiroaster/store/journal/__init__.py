"""The only writer of execution state: `transitions` as values, the `writer` groups them for a back end."""
