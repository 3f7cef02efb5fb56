#!/usr/bin/env python3
"""Makes byte-level token files from real text that a Debian machine has or can fetch: prose, C++ and Python.

    scripts/make_text_tokens.py [--output tokens]

Writes {prose,cpp,python}_{train,heldout}.npy: uint16 ids, the 256 byte values and 256 as the end of a document. A
file is a document; files of equal content count once; one document in twenty, chosen by its path, is held out whole.
What is present is kept, so a second run does nothing. 35 MB of text, 70 MB of tokens. Debian's package `anarchism`
(7 MB) is downloaded where its documents are absent; the sources are those of LibTorch, the compiler and Python.
"""
import os
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module: now last.
FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != FOLDER] + [FOLDER]

import script_errors

if __name__ == "__main__":
    script_errors.stop_on_signals("make_text_tokens.py")

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TOKENIZER = REPOSITORY / "scripts" / "tokenize.py"
PROSE_PACKAGE = "anarchism"
MAX_DOMAIN_BYTES = 12_000_000
MAX_DOCUMENT_BYTES = 400_000  # longer sources are tables that a program wrote
HELDOUT_ONE_IN = 20


def prose_documents(scratch):
    """Yields (name, bytes) of the Markdown of the Anarchist FAQ, English prose with references."""
    folder = Path("/usr/share/doc", PROSE_PACKAGE)
    if not list(folder.rglob("*.md*")):  # slim images drop documents when they install a package
        folder = download_package(PROSE_PACKAGE, scratch) / "usr/share/doc" / PROSE_PACKAGE
    for path in folder.rglob("*.md*"):
        content = path.read_bytes()
        yield path.name.removesuffix(".gz"), gzip.decompress(content) if path.suffix == ".gz" else content


def download_package(package, scratch):
    if shutil.which("apt-get") is None:
        raise SystemExit(f"error: the package {package} is needed, and there is no apt-get (Debian, Ubuntu) to fetch it")
    # Root's apt would change to a user that cannot write here, and complain.
    command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package]

    def download():
        return subprocess.run(command, cwd=scratch, stdin=subprocess.DEVNULL).returncode == 0

    if not download():  # a fresh image has no package lists
        sudo = [] if os.geteuid() == 0 else ["sudo"]
        subprocess.run([*sudo, "apt-get", "update"], check=True, stdin=subprocess.DEVNULL)
        if not download():
            raise SystemExit(f"error: apt-get download {package} failed")
    archive, = Path(scratch).glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, scratch], check=True)
    return Path(scratch)


def source_documents(roots, patterns):
    """Yields (name, bytes) of the matching files. ATen/ops is thousands of generated headers that hardly differ."""
    for label, root in roots.items():
        for pattern in patterns:
            for path in root.rglob(pattern):
                name = path.relative_to(root).as_posix()
                skipped = any(part in f"/{name}" for part in ("/ATen/ops/", "/site-packages/", "/dist-packages/"))
                if not skipped and path.is_file() and not path.is_symlink():
                    yield f"{label}/{name}", path.read_bytes()


def libtorch_root():
    """The folder that holds include/, in one of the layouts that cmake/FindLibTorch.cmake takes."""
    named = Path(os.environ.get("LIBTORCH") or REPOSITORY / ".deps" / "libtorch-2.11.0")
    for root in (named / "torch", named / "libtorch", named):
        if (root / "include" / "ATen" / "ATen.h").is_file():
            return root
    raise SystemExit(f"error: {named} holds no LibTorch: run scripts/install_libtorch.sh")


def documents_of(domain, scratch):
    if domain == "prose":
        return prose_documents(scratch)
    if domain == "cpp":
        return source_documents({"torch": libtorch_root() / "include", "std": Path("/usr/include/c++")},
                                ["*.h", "*.hpp", "*.cuh", "*.tcc", "bits/*", "ext/*"])
    standard_library = Path(os.__file__).parent
    return source_documents({"torch": libtorch_root(), "stdlib": standard_library}, ["*.py"])


def hash_of(data):
    return hashlib.sha256(data).digest()


def choose(documents):
    """Drops copies, empty, huge and undecodable files; keeps MAX_DOMAIN_BYTES in the order of the names' hashes."""
    seen, chosen, size_bytes = set(), [], 0
    for name, content in sorted(documents, key=lambda document: hash_of(document[0].encode())):
        digest = hash_of(content)
        if not content.strip() or len(content) > MAX_DOCUMENT_BYTES or digest in seen:
            continue
        seen.add(digest)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if size_bytes + len(content) <= MAX_DOMAIN_BYTES:
            size_bytes += len(content)
            chosen.append((name, text))
    return chosen


def is_heldout(name):
    # Other bytes of the hash than those that decide the order.
    return int.from_bytes(hash_of(name.encode())[-8:], "little") % HELDOUT_ONE_IN == 0


def tokenize(documents, output, scratch):
    source = Path(scratch) / f"{output.stem}.jsonl"
    try:
        with source.open("w") as file:
            for name, text in documents:
                file.write(json.dumps({"id": name, "text": text}) + "\n")
    except OSError as error:
        raise SystemExit(f"error: {source}: cannot be written: {error.strerror}; TMPDIR names another folder for it")
    # The token file appears last and whole: present means complete.
    command = [sys.executable, TOKENIZER, "--tokenizer", "bytes", "--output", output, source]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            code = process.wait()
        except BaseException:  # a signal, perhaps to this process alone
            process.terminate()
            raise
    if code != 0:
        raise SystemExit(f"error: {output} was not made: {TOKENIZER.name} ended with {code}")
    print(f"{output}: {len(documents)} documents, {output.stat().st_size // 2} tokens")


def make_domain(domain, output):
    targets = {split: output / f"{domain}_{split}.npy" for split in ("train", "heldout")}
    if all(path.exists() for path in targets.values()):
        print(f"{domain}: present")
        return
    with tempfile.TemporaryDirectory() as scratch:
        documents = choose(documents_of(domain, scratch))
        for split, path in targets.items():
            chosen = [document for document in documents if is_heldout(document[0]) == (split == "heldout")]
            if not chosen:
                raise SystemExit(f"error: {domain}: no documents for {path.name}")
            path.unlink(missing_ok=True)  # of a run that ended before the other one was made
            tokenize(chosen, path, scratch)


def main():
    parser = argparse.ArgumentParser(description="Makes byte-level token files of prose, C++ and Python.")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "tokens", help="folder (default: tokens/)")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for domain in ("prose", "cpp", "python"):
        make_domain(domain, arguments.output)


if __name__ == "__main__":
    script_errors.run_script(main, "error:", (subprocess.CalledProcessError,))
