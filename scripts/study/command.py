"""The commands of olmoe-study."""
import argparse

from study.files import read_json, study_lock
from study.plan import describe_plan, make_plan
from study.programs import NAMES, Programs
from study.results import read_results
from study.runner import Runner, items_of, state_of
from study.spec import read_study
from study.yaml_reader import StudyError

COMMANDS = {"plan": "check every run and print parameters, tokens, FLOPs and predicted hours; run nothing",
            "run": "check every run, then bring all to their end",
            "status": "print how far each run is",
            "time": "measure the step time of each run alone; nothing else should run on the machine",
            "report": "write index.html, results.csv and pictures beside the results"}
RUN_FAILED = 3


def say(text):
    print(text, flush=True)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="olmoe-study", description="Without a command: plan, then run.",
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="\n".join(f"{name:8}{text}" for name, text in COMMANDS.items()))
    parser.add_argument("command", nargs="?", choices=COMMANDS)
    parser.add_argument("study", metavar="STUDY.yaml")
    for key, name in NAMES.items():
        parser.add_argument(f"--{key.replace('_', '-')}", metavar="PATH", help=f"{name} (default: the repository's build)")
    parser.add_argument("--results", metavar="FOLDER", help="of result files and the report, in place of the study's")
    parser.add_argument("--rounds", type=int, default=3, help="of `time` (default 3)")
    parser.add_argument("--steps", type=int, default=30, help="of a run in each round of `time` (default 30)")
    return parser.parse_args(arguments)


def refuse_missing_files(study, plan):
    """For runs of this machine; a batch system may have the files elsewhere."""
    missing = [f"{name}: {one.missing_files}" for name, one in plan.runs.items() if one.missing_files]
    if missing and not study.launch.submit:
        raise StudyError(f"{study.path}: token files of {len(missing)} runs are missing here ({', '.join(missing[:3])}"
                         f"{', ...' if len(missing) > 3 else ''}): scripts/make_text_tokens.py makes those of "
                         "configs/tiny-cpu.yaml; relative paths start from the working directory")


def refuse_one_process(study):
    if study.launch.starts_one_process and study.launch.ranks > 1:
        raise StudyError(f"{study.path}: launch.command starts one process for each run, and the study has runs of "
                         f"{study.launch.ranks} ranks: write one that starts {{ranks}} of them (docs/studies.md)")


def run(study, programs, plan):
    refuse_one_process(study)
    with study_lock(study.folder):
        runner = Runner(study, plan, programs, say)
        runner.check_done()
        if runner.is_unfinished():
            refuse_missing_files(study, plan)
        return 0 if runner.run() else RUN_FAILED


def print_status(study, plan):
    rows = [["run", "seed", "state"]]
    rows += [[item.plan.run.name, str(item.seed), state_of(item, study, plan)] for item in items_of(study, plan)]
    width = [max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)]
    say("\n".join(f"{row[0]:{width[0]}}  {row[1]:>{width[1]}}  {row[2]}" for row in rows))


def report(study):
    found = read_results(study)
    if not found:
        raise StudyError(f"{study.results}/runs has no result yet: olmoe-study run {study.path}")
    try:
        from study.report import write_report  # what it imports takes a second, and only it needs it
        from study.statistics import ReportError
    except ImportError as error:
        raise StudyError(f"{error}; scripts/install_packages.sh study installs it") from None
    try:
        write_report(study, found, read_json(study.results / "step_time.json"), study.results)
    except ReportError as error:
        raise StudyError(f"{study.path}: {error}") from None
    say(study.results / "index.html")


def run_command_line(arguments):
    """Returns the exit code. Raises StudyError."""
    options = parse(arguments)
    study = read_study(options.study, options.results)
    if options.command == "report":
        report(study)
        return 0
    programs = Programs.find(vars(options))
    plan = make_plan(study, programs)
    if options.command in (None, "plan"):
        say(describe_plan(study, plan).rstrip())
    if options.command in (None, "run"):
        return run(study, programs, plan)
    if options.command == "status":
        print_status(study, plan)
    if options.command == "time":
        refuse_one_process(study)
        refuse_missing_files(study, plan)
        with study_lock(study.folder):
            from study.step_time import time_steps
            time_steps(study, plan, programs, options.rounds, options.steps, say)
    return 0
