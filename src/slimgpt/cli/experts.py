"""What ``slimgpt prune`` does where whole experts go."""

from __future__ import annotations

from slimgpt.config import PruneConfig


def prune_experts(config: PruneConfig) -> None:
    """Remove them, and print what the library answers."""
    from slimgpt.experts import remove_experts
    from slimgpt.reports.experts import print_experts
    from slimgpt.reports.loudness import err
    from slimgpt.reports.sparsity import StreamProgress

    with StreamProgress(err) as observer:
        result = remove_experts(config, observer)
    print_experts(result.record)
    print(f"Written to {result.path}")
