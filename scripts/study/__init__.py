"""Studies: sets of runs that answer one question (docs/studies.md). scripts/olmoe-study is the command."""
