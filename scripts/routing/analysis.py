"""Reads what olmoe-analyze wrote."""
import json
from pathlib import Path

import numpy as np

DTYPES = {"I64": "<i8", "I32": "<i4", "F64": "<f8", "F32": "<f4"}
NUMBERS = ("layers", "experts", "top_k", "sequence_length", "min_count", "capacity")


class AnalysisError(Exception):
    """The file is no analysis, or a part of it is missing."""


class Analysis:
    """Arrays by name (docs/analysis.md has their shapes) and the numbers of the metadata."""

    def __init__(self, arrays, metadata, name):
        self.arrays, self.name = arrays, name
        missing = [key for key in (*NUMBERS, "domains", "steps", "table_layers") if key not in metadata]
        if missing:
            raise AnalysisError(f"{name}: its metadata has no {missing[0]}: it is no analysis by olmoe-analyze")
        for key in NUMBERS:
            setattr(self, key, int(metadata[key]))
        self.domains = metadata["domains"].split("\n")
        self.steps = [int(step) for step in metadata["steps"].split()]
        self.table_layers = [int(layer) for layer in metadata["table_layers"].split()]

    def has(self, *names):
        return all(name in self.arrays for name in names)

    def __getitem__(self, name):
        return self.arrays[name]


def read_analysis(path):
    """The Analysis in a safetensors file. AnalysisError says what is wrong with it."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AnalysisError(f"{path}: {error.strerror}") from error
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise AnalysisError(f"{path}: not a safetensors file, or cut short")
    try:
        header = json.loads(content[8:8 + length])
        metadata = header.pop("__metadata__", {})
        data = content[8 + length:]
        arrays = {name: read_array(data, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnalysisError(f"{path}: {error}") from error
    return Analysis(arrays, metadata, str(path))


def read_array(data, entry):
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
