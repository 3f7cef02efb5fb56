#!/usr/bin/env python3
"""Compares scripts/tokenize.py with `dolma tokens`, byte by byte: token file and table of documents.

    tests/scripts/compare_dolma.py [TEXT_FILE ...] [--tokenizer tokenizer.json]

Run by hand, and no part of ctest: the package dolma brings 39 others along (330 MB), and pip did not resolve what they
ask of one another in ten minutes. Without a check of dependencies they install in half a minute; F is a folder:

    pip install --no-deps --target F dolma==1.2.1 tokenizers==0.19.1 'numpy<2' msgspec smart-open wrapt necessary \\
      'requirements-parser<0.12' types-setuptools packaging typing_extensions omegaconf antlr4-python3-runtime==4.9.3 \\
      pyyaml tqdm rich markdown-it-py mdurl pygments fsspec platformdirs nltk regex joblib click uniseg zstandard \\
      python-dotenv jq jsonpath-ng ply anyascii charset-normalizer requests urllib3 idna certifi blingfire==0.1.8 \\
      fasttext-wheel==0.9.2 pybind11
    PYTHONPATH=F tests/scripts/compare_dolma.py

The documents are the lines of the text files (default: this repository's Markdown) and some that are hard: white space
of all kinds, control tokens inside, alone and at the end. Without --tokenizer, a byte-level BPE is trained on them.

Exit codes: 0 all files equal, 1 a difference, 2 the package dolma is absent: nothing was compared.
"""
import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "tokenize.py"
END = "<|endoftext|>"
HARD = [
    "", " ", "\n\u3000\t", "\x1c\x1d", "  two  words  \n\n", "\u00a0no break\u00a0", "\ufeffmark", END, f"{END}{END}",
    f"ends {END}", f"ends {END} \n", f"a{END}b {END} c", "<|pad|> and <|padding|>", "\u00e9 e\u0301 \U0001f600 \u2028",
    "null \0 inside", "    four    spaces", "x" * 100_000,
]


def train_tokenizer(texts, path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=5000, special_tokens=[END, "<|pad|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


def dolma_tokens(documents, tokenizer, folder, encode_special_tokens):
    """The token file and the table that `dolma tokens` writes, with documents in the order of the input."""
    from dolma.tokenizer import tokenize_in_parallel
    from tokenizers import Tokenizer

    end_id = Tokenizer.from_file(str(tokenizer)).token_to_id(END)
    tokenize_in_parallel(
        sources=[str(documents)], destination=str(folder), metadata_dir=str(folder / "metadata"),
        tokenizer_name_or_path=str(tokenizer), eos_token_id=end_id, pad_token_id=end_id, max_size=1 << 24,
        local_shuffle=1, encode_special_tokens=encode_special_tokens, debug=True)
    tokens, = folder.glob("*.npy")
    return tokens.read_bytes(), gzip.decompress(tokens.with_suffix(".csv.gz").read_bytes())


def our_tokens(documents, tokenizer, folder, encode_special_tokens):
    command = [sys.executable, SCRIPT, documents, "--tokenizer", tokenizer, "--output", folder / "tokens", "--strip"]
    subprocess.run(command + ["--encode-special-tokens"] * encode_special_tokens, check=True)
    table = gzip.decompress((folder / "tokens.csv.gz").read_bytes())
    return (folder / "tokens.npy").read_bytes(), table


def compare(documents, tokenizer, scratch, encode_special_tokens):
    """Whether both programs write the same; prints what they wrote."""
    name = "control tokens as text" if encode_special_tokens else "control tokens as they are"
    ours = our_tokens(documents, tokenizer, scratch / f"ours-{encode_special_tokens}", encode_special_tokens)
    theirs = dolma_tokens(documents, tokenizer, scratch / f"theirs-{encode_special_tokens}", encode_special_tokens)
    rows = ours[1].count(b"\r\n")
    for what, our, their in zip(("token file", "table of documents"), ours, theirs):
        if our != their:
            first = next((i for i, (a, b) in enumerate(zip(our, their)) if a != b), min(len(our), len(their)))
            print(f"DIFFERENT: {name}: {what}: {len(our)} and {len(their)} bytes, the first difference at {first}")
    if ours == theirs:
        print(f"equal: {name}: {len(ours[0]) // 2} tokens of {rows} documents")
    return ours == theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, metavar="TEXT_FILE", default=sorted(REPOSITORY.glob("docs/*.md")))
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json with <|endoftext|> whose ids fit uint16")
    options = parser.parse_args()
    try:
        import dolma.tokenizer
    except ImportError as error:
        print(f"NOT COMPARED: the package dolma is needed (see --help): {error}", file=sys.stderr)
        return 2
    texts = HARD + [line for path in options.texts for line in path.read_text().splitlines(keepends=True)]
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        documents = scratch / "documents.jsonl.gz"
        with gzip.open(documents, "wt") as file:
            for i, text in enumerate(texts):
                file.write(json.dumps({"id": f'document "{i}", {i % 7}', "text": text}) + "\n")
        if not options.tokenizer:
            train_tokenizer(texts, scratch / "tokenizer.json")
        tokenizer = (options.tokenizer or scratch / "tokenizer.json").resolve()
        equal = [compare(documents, tokenizer, scratch, specials) for specials in (False, True)]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
