"""Which options stand together on a help page, and the commands that most people need, as data."""

from __future__ import annotations

HOW_MUCH, ON_WHAT, METHOD, SEARCH = "how much", "on what text", "by which method", "search"
LEARNING, MEASURE, MACHINE, OUTPUT = "learning", "what is measured", "machine", "output"

GROUPS: dict[str, str] = {
    HOW_MUCH: (
        "ratio layers sparsity pattern target_params target_size target_memory context batch target_latency latency_of "
        "latency_prompt latency_table attention_units blocks experts experts_multiple_of tensor_parallel layout "
        "round_to coverage multiple_of"
    ),
    ON_WHAT: (
        "calibration text text_field bos samples seqlen join_texts packing mix mix_share held_out stride max_tokens"
    ),
    METHOD: (
        "effort families solver method expert_score expert_repair allocation layer_ratios scope schedule rounds "
        "damping repair correct_errors grouped_cholesky group_size"
    ),
    SEARCH: "search_cache search_candidates",
    LEARNING: (
        "data teacher loss_on full rank alpha dropout train_embeddings keep_zeros movement learning_rate "
        "weight_decay epochs max_steps micro_batch_size temperature top_k label_share hidden_weight "
        "teacher_cache teacher_streamed eval_every keep patience extrapolate keep_adapter"
    ),
    MEASURE: (
        "suite tasks task_dir task_data limit num_fewshot against against_by quantise prompt_tokens "
        "new_tokens repeats warmup server clients dense max_new_tokens chat"
    ),
    MACHINE: (
        "device dtype precision batch_size offload_dir gradient_checkpointing compile workers ray seed "
        "server_command server_options"
    ),
    OUTPUT: (
        "recipe format outtype verify figures figure_format json compare_json record report out private "
        "base_model licence gguf dry_run keep_models retry yes resume force"
    ),
}
"""Names of options by title; an option stands in one of them whatever the command, but for those below."""

ELSEWHERE = {("trim", "keep"): HOW_MUCH}
"""Options that mean something else in one command: (command, option) -> the title there."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "prune": (
        "slimgpt prune MODEL smaller --ratio 0.25 --calibration my-text.jsonl",
        "slimgpt prune MODEL smaller --ratio 0.25 --effort high",
        "slimgpt prune MODEL smaller --target-size 200MB --calibration builtin",
        "slimgpt prune MODEL smaller --recipe recipes/slimgpt-paper.yaml",
        "slimgpt prune MIXTURE fewer-experts --experts 0.25 --calibration my-text.jsonl",
    ),
    "sparsify": (
        "slimgpt sparsify MODEL sparse --sparsity 0.5",
        "slimgpt sparsify MODEL sparse --method sparsegpt --pattern 2:4",
    ),
    "drop": ("slimgpt drop MODEL shallow --layers 4",),
    "trim": (
        "slimgpt trim MODEL fewer-tokens --text my-text.jsonl --keep 64000",
        "slimgpt trim MODEL fewer-tokens --text notes.txt code --coverage 0.999",
        "slimgpt trim MODEL fewer-tokens --text en.jsonl de.jsonl --target-params 150M",
    ),
    "search": (
        "slimgpt search curves --ratio 0.4",
        "slimgpt search curves --target-params 100M --out ratios.yaml",
    ),
    "recover": (
        "slimgpt recover smaller better --data text.jsonl",
        "slimgpt recover smaller better --data text.jsonl --teacher MODEL --full",
    ),
    "eval": (
        "slimgpt eval smaller --text wiki.test.txt",
        "slimgpt eval smaller --suite slimgpt --record",
        "slimgpt eval smaller --text wiki.test.txt --against MODEL",
    ),
    "bench": (
        "slimgpt bench MODEL smaller",
        "slimgpt bench MODEL smaller --batch-size 8 --record",
        "slimgpt bench MODEL smaller --server vllm --clients 1 8 32",
    ),
    "report": ("slimgpt report smaller -o report.html", "slimgpt report one another --dense MODEL"),
    "study": ("slimgpt study recipes/study-small.yaml out",),
    "inspect": ("slimgpt inspect smaller",),
    "families": ("slimgpt families",),
    "generate": ('slimgpt generate smaller "Once upon a time"', 'slimgpt generate smaller "Who are you?" --chat'),
    "compare": ('slimgpt compare MODEL smaller "The capital of France is"',),
    "chat": ("slimgpt chat smaller", "slimgpt chat smaller --against MODEL"),
    "push": ("slimgpt push smaller me/smaller --dry-run", "slimgpt push smaller me/smaller --base-model owner/name"),
    "doctor": ("slimgpt doctor", "slimgpt doctor --json doctor.json"),
    "export": (
        "slimgpt export smaller smaller.gguf --format gguf --outtype q8_0",
        "slimgpt export smaller padded --format padded",
    ),
}
