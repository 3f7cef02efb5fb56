"""The keys of report.fits in a study, with what they are without a word."""

METRIC = {"metric": (str, "heldout"), "runs": (list, ["*"])}
KEYS = {
    "lr_u_curve": METRIC | {"key": (str, "optimizer.lr"), "curvature": (("own", "shared"), "own")},
    "power_law": METRIC | {"x": (("flops", "tokens", "active", "total"), "flops"), "irreducible": ((int, float), None)},
    "isoflop": METRIC | {"size": (("active", "total"), "active"), "tolerance": ((int, float), 0.05)},
    "critical_batch": {"runs": (list, ["*"]), "loss": ((int, float), None)},
}


def complete_fit(fit):
    """The fit with all keys of its kind. ValueError names the key that is wrong."""
    if not isinstance(fit, dict) or fit.get("kind") not in KEYS:
        raise ValueError(f"report.fits: each has a kind, of {', '.join(KEYS)}, not {fit!r}")
    known = KEYS[fit["kind"]]
    for key, value in fit.items():
        if key == "kind":
            continue
        if key not in known:
            raise ValueError(f"report.fits: {fit['kind']} has no key {key}; it has {', '.join(known)}")
        allowed = known[key][0]
        words = isinstance(allowed, tuple) and isinstance(allowed[0], str)
        if isinstance(value, bool) or (value not in allowed if words else not isinstance(value, allowed)):
            expected = f"one of {', '.join(allowed)}" if words else "a list" if allowed is list else (
                "text" if allowed is str else "a number")
            raise ValueError(f"report.fits: {fit['kind']}.{key}: expected {expected}, not {value!r}")
    return {key: default for key, (_, default) in known.items()} | fit
