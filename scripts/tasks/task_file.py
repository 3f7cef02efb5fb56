"""Writes a task file: safetensors, header first, then tensors without holes (docs/evaluation.md has the list)."""
import json
import os
import struct

DTYPES = {"int32": "I32", "int64": "I64"}
FORMAT = "olmoe-task 1"
PREPARED = "olmoe prepare_tasks 1"


def write_task_file(path, tensors, metadata):
    """Writes {name: array} and {key: string}, on disk when it returns. The same contents give the same bytes."""
    # As the C++ writer has it: wide types first, so that every tensor is aligned to its own size.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header, end = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": DTYPES[tensors[name].dtype.name], "shape": list(tensors[name].shape),
                        "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensors[name].astype(tensors[name].dtype.newbyteorder("<")).tobytes())
        file.flush()
        os.fsync(file.fileno())
