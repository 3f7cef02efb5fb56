"""Words that this house no longer uses, each with the field's word (docs/glossary.md). check_house.py refuses them."""
import re

CPP = r".*\.(h|cuh|cpp|cu)"
# (what is refused, the word to use, the files in which)
WORDS = [
    (r'(?<!renamed\(")\bgradient_wire\b', "reduce_dtype", r".*"),  # a config key's old name, which is refused with the new
    (r"\bKeptRows\b", "SavedNorm, saved for backward", r".*"),
    (r"\b[Rr]ehears\w*|\bkRehears\w*", "warm up", CPP),  # scripts/gpu/check.sh has a rehearsal of its own
    (r"\b(goes|going|went|go) on from\b", "resume from", r".*"),
    (r"\bfullest_moment\b", "peak", r".*"),
    (r"\bInstanceSource\b", "SequenceSource", r".*"),
    (r"\b[Ee]nroll\w*", "register", r".*"),
    (r"\b[Gg]rouped products?\b", "grouped GEMM", r".*"),
    (r"\btrain_pass\b|\bPassTotals\b", "train_micro_batch, LocalTotals", r".*"),
    (r"\b(accumulation|micro-batch) rounds?\b|\brounds of (micro-batches|accumulation)\b|\bpasses of a step\b",
     "accumulation steps", r".*"),
    (r"\bGraphRecorder\b|\bmake_graph_recorder\b", "DeviceGraph: warm_up, capture, replay", r".*"),
    # Not the link to decision 008, nor the bundle of scripts/gpu/bundle.sh, which does travel.
    (r"\b[Tt]ravel(s|ed|led|ing|ling)?\b(?!\.md)", "dispatch and combine, or send", r"(?!scripts/gpu|trainer/planner/).*"),
    (r"\b(tokens?|rows?|copies) (are|is) on (their|its) way\b", "in flight", r".*"),
    (r"\b[Mm]end(s|ed|ing)?\b", "fix", r".*"),
    (r"\btold apart\b", "distinguished", r".*"),
    (r"\bSideLane\b|\blanes? of work\b", "side stream", r".*"),  # a warp has lanes
]
CHECKED = re.compile(r".*\.(h|cuh|cpp|cu|py|md|sh|yaml|cmake)|(.*/)?CMakeLists\.txt")
# The words of their time, the glossary, and this list with its test.
UNCHECKED = re.compile(r"docs/(decisions|benchmarks)/.*|docs/glossary\.md|scripts/refused_words\.py|"
                       r"tests/scripts/test_check_house\.py")


def check_words(name, text):
    """Yields (line, problem) for each line of the file `name` that has a refused word."""
    if not CHECKED.fullmatch(name) or UNCHECKED.fullmatch(name):
        return
    words = [(re.compile(pattern), use) for pattern, use, files in WORDS if re.fullmatch(files, name)]
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, use in words:
            if found := pattern.search(line):
                yield number, f'"{found[0]}" is not the word of this house: {use} (docs/glossary.md)'
