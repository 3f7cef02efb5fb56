#!/usr/bin/env python3
"""Draws what olmoe-analyze counted: saturation over training, co-activation, domains, vocabulary, flow and more.

    scripts/plot_routing.py FILE.safetensors [--output FOLDER]

A PNG of each figure and index.html, one page with all of them and tooltips, go to FOLDER (by default beside the file, under
its name without .safetensors). Figures are drawn of the statistics that the file has (docs/analysis.md).
"""
import os
import sys

# Python puts this folder first on its path, where tokenize.py would shadow the standard library's module: now last.
FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != FOLDER] + [FOLDER]

import script_errors

if __name__ == "__main__":
    script_errors.stop_on_signals("plot_routing.py")

import argparse
from pathlib import Path

try:
    from routing.analysis import AnalysisError, read_analysis
    from routing.figures import all_figures, step_labels
    from routing.page import page
    from routing.pictures import png
except ImportError as error:
    sys.exit(f"error: {error}; scripts/install_packages.sh plot installs it")


def intro_of(analysis):
    last = step_labels(analysis)[-1]
    return (f"{analysis.layers} layers with experts, {analysis.experts} experts, top-{analysis.top_k}; domains: "
            f"{', '.join(analysis.domains)}. Where nothing else is said, of {last}.")


def draw(source, folder):
    """Writes the figures and the page; returns the paths."""
    analysis = read_analysis(source)
    figures = all_figures(analysis)
    if not figures:
        raise AnalysisError(f"{source}: has no statistic that a figure is drawn of")
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        (folder / f"{figure.name}.png").write_bytes(png(figure))
    text = page(f"Routing: {Path(source).stem}", intro_of(analysis), figures)
    (folder / "index.html").write_text(text, encoding="utf-8")
    return [folder / "index.html", *(folder / f"{figure.name}.png" for figure in figures)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("analysis", help="a file that olmoe-analyze wrote")
    parser.add_argument("--output", help="folder of the figures")
    arguments = parser.parse_args()
    source = Path(arguments.analysis)
    folder = Path(arguments.output) if arguments.output else source.with_suffix("")
    if folder == source:
        sys.exit(f"error: {source}: name a folder by --output")
    try:
        print("\n".join(map(str, draw(source, folder))))
    except (AnalysisError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
