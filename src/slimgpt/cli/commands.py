"""What each command does: call the library, print what it answers. Heavy imports wait inside the functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from slimgpt.cli.experts import prune_experts
from slimgpt.cli.extras import require_report_extra, require_study_extra
from slimgpt.config import (
    BenchConfig,
    ChatConfig,
    CompareConfig,
    DoctorConfig,
    DropConfig,
    EvalConfig,
    ExportConfig,
    FamiliesConfig,
    GenerateConfig,
    InspectConfig,
    PruneConfig,
    PushConfig,
    RecoverConfig,
    ReportConfig,
    SearchConfig,
    SparsifyConfig,
    StudyConfig,
    TrimConfig,
)


def _prune(config: PruneConfig) -> None:
    if config.experts is not None:
        return prune_experts(config)
    from slimgpt.efforts import prune
    from slimgpt.reports.console import print_record
    from slimgpt.reports.effort import EffortProgress, print_learned
    from slimgpt.reports.loudness import out

    if config.report:
        require_report_extra()
    with EffortProgress() as observer:
        result = prune(config, observer)
    if result.record:  # of several processes one has it
        print_record(result.record)
        print_learned(result.record)
        out.print(f"Written to {result.path}")
        if config.report:
            _report(ReportConfig((str(result.path),), str(result.path / "report.html"), force=True))


def _sparsify(config: SparsifyConfig) -> None:
    from slimgpt.reports.loudness import err
    from slimgpt.reports.sparsity import StreamProgress, print_sparsity
    from slimgpt.sparsity import sparsify

    with StreamProgress(err) as observer:
        result = sparsify(config, observer)
    print_sparsity(result.record)
    print(f"Written to {result.path}")


def _drop(config: DropConfig) -> None:
    from slimgpt.depth import drop
    from slimgpt.reports.loudness import err
    from slimgpt.reports.sparsity import StreamProgress, print_dropped

    with StreamProgress(err) as observer:
        result = drop(config, observer)
    print_dropped(result.record)
    print(f"Written to {result.path}")


def _trim(config: TrimConfig) -> None:
    from slimgpt.reports.loudness import err
    from slimgpt.reports.sparsity import StreamProgress
    from slimgpt.reports.vocabulary import print_trimmed
    from slimgpt.vocabulary import trim

    with StreamProgress(err) as observer:
        result = trim(config, observer)
    print_trimmed(result.record)
    print(f"Written to {result.path}")


def _search(config: SearchConfig) -> None:
    from slimgpt.reports.allocation import print_allocation
    from slimgpt.searching import search

    print_allocation(search(config))
    if config.out is not None:
        print(f"Written to {config.out}")


def _recover(config: RecoverConfig) -> None:
    from slimgpt.recovery import recover
    from slimgpt.reports.recovery import RecoveryProgress, print_recovery

    with RecoveryProgress() as observer:
        result = recover(config, observer)
    if result.record:  # of several processes one has it
        print_recovery(result.record)
        print(f"Written to {result.path}")


def _eval(config: EvalConfig) -> None:
    from slimgpt.evaluation import evaluate
    from slimgpt.reports.evaluation import EvaluationProgress, print_comparison, print_evaluation
    from slimgpt.reports.loudness import err

    with EvaluationProgress(err) as progress:
        result = evaluate(config, progress)
    print_evaluation(result.found)
    if result.comparison is not None:
        print_comparison(result.comparison)


def _inspect(config: InspectConfig) -> None:
    from slimgpt.model.inspection import inspect_model
    from slimgpt.output.single_file import single_file
    from slimgpt.reports.console import print_inspection
    from slimgpt.reports.loudness import err
    from slimgpt.reports.progress import Headway

    with single_file(config.json) as file:
        with Headway(err) as progress:
            progress.begin("reading the model")
            inspection = inspect_model(config.model)
        print_inspection(inspection)
        file.write_json(inspection)


def _bench(config: BenchConfig) -> None:
    from slimgpt.benchmarking import bench
    from slimgpt.reports.bench_table import print_bench
    from slimgpt.reports.loudness import err
    from slimgpt.reports.progress import Headway
    from slimgpt.reports.served_table import print_served

    with Headway(err) as progress:
        progress.begin("measuring", total=len(config.models) * (1 + config.repeats_of_each))
        result = bench(config, progress.advance)
    (print_bench if config.server is None else print_served)(result)


def _report(config: ReportConfig) -> None:
    require_report_extra()
    from slimgpt.reports.page import report

    written = report(config)
    print(f"Written to {written.page}")
    if written.figures:
        print(f"{len(written.figures)} figures in {config.figures}")


def _study(config: StudyConfig) -> int:
    require_study_extra()
    require_report_extra()
    from slimgpt.reports.loudness import err
    from slimgpt.reports.study import StudyProgress, print_study
    from slimgpt.studies import study

    with StudyProgress(err) as progress:
        done = study(config, progress)
    print_study(done)
    print(f"Written to {progress.page}")
    return EXIT_CELLS_FAILED if done.failures else 0


def _families(config: FamiliesConfig) -> None:
    from slimgpt.arch import FAMILIES
    from slimgpt.reports.console import print_families

    print_families(FAMILIES)


def _generate(config: GenerateConfig) -> None:
    from slimgpt.model.generation import generate
    from slimgpt.model.loading import load_model
    from slimgpt.reports.loudness import err
    from slimgpt.reports.progress import Headway

    with Headway(err) as progress:
        progress.begin("reading the model")
        model, tokenizer = load_model(config.model, config.device)
        progress.begin("generating")
        settings = (config.prompt, config.max_new_tokens, config.temperature, config.chat, config.seed)
        text = generate(model, tokenizer, *settings)
    print(text)


def _compare(config: CompareConfig) -> None:
    from slimgpt.cli.talk import print_beside
    from slimgpt.model.generation import generate
    from slimgpt.model.loading import load_model
    from slimgpt.reports.loudness import err, out
    from slimgpt.reports.progress import Headway

    names, answers = (config.model, config.other), []
    settings = (config.prompt, config.max_new_tokens, config.temperature, config.chat, config.seed)
    with Headway(err) as progress:
        for name in names:  # one after the other: the memory of one is enough
            progress.begin(f"{name} answers")
            model, tokenizer = load_model(name, config.device)
            answers.append(generate(model, tokenizer, *settings))
    print_beside(out, names, answers)


def _chat(config: ChatConfig) -> None:
    from slimgpt.cli.talk import Talker, lines, print_beside
    from slimgpt.model.loading import load_model
    from slimgpt.reports.loudness import err, out
    from slimgpt.reports.progress import Headway

    names = [config.model, *([config.against] if config.against is not None else [])]
    with Headway(err) as progress:
        progress.begin("reading the model" if len(names) == 1 else "reading the models")
        talkers = [Talker(name, *load_model(name, config.device)) for name in names]
    for said in lines(input, "> "):
        answers = [talker.answer(said, config) for talker in talkers]
        if len(answers) == 1:
            print(answers[0])
        else:
            print_beside(out, names, answers)


def _doctor(config: DoctorConfig) -> None:
    from slimgpt.machine.doctor import examine
    from slimgpt.output.single_file import single_file
    from slimgpt.reports.doctor import print_doctor

    with single_file(config.json) as file:
        found = examine()
        print_doctor(found)
        file.write_json(found)


def _export(config: ExportConfig) -> None:
    from slimgpt.exports import export
    from slimgpt.reports.loudness import err
    from slimgpt.reports.progress import Headway

    with Headway(err) as progress:
        progress.begin(f"exporting, {config.format}")
        done = export(config)
    for note in done.notes:
        print(note)
    if done.path is not None:
        print(f"Written to {done.path}")


def _push(config: PushConfig) -> None:
    from slimgpt.reports.loudness import err
    from slimgpt.reports.progress import Headway
    from slimgpt.sharing import push

    with Headway(err) as progress:
        progress.begin("sending")
        done = push(config)
    if done.url is None:
        print("\n".join([f"Would be sent to {config.repo}:", *done.files, "", done.card]))
    else:
        print(f"Sent to {done.url}")


EXIT_CELLS_FAILED = 1


class Command(NamedTuple):
    """A command's options, and what carries them out."""

    config: type
    run: Callable[[Any], int | None]


COMMANDS: dict[str, Command] = {
    "prune": Command(PruneConfig, _prune),
    "sparsify": Command(SparsifyConfig, _sparsify),
    "drop": Command(DropConfig, _drop),
    "trim": Command(TrimConfig, _trim),
    "search": Command(SearchConfig, _search),
    "recover": Command(RecoverConfig, _recover),
    "eval": Command(EvalConfig, _eval),
    "bench": Command(BenchConfig, _bench),
    "report": Command(ReportConfig, _report),
    "study": Command(StudyConfig, _study),
    "inspect": Command(InspectConfig, _inspect),
    "families": Command(FamiliesConfig, _families),
    "generate": Command(GenerateConfig, _generate),
    "compare": Command(CompareConfig, _compare),
    "chat": Command(ChatConfig, _chat),
    "export": Command(ExportConfig, _export),
    "push": Command(PushConfig, _push),
    "doctor": Command(DoctorConfig, _doctor),
}
