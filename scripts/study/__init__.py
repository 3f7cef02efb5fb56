"""Studies: sets of runs that answer one question (docs/ablations.md). scripts/olmoe-study is the command."""
