"""transformers' Trainer with our two losses, held-out perplexity, and progress for whoever watches.

All else is Trainer's: gradient accumulation, mixed precision, checkpoints, resuming, several processes, early stopping
and the choice of the best checkpoint. A checkpoint's weights are safetensors; optimiser, schedule and random state are
files that Trainer reads with ``weights_only=True``, which builds tensors and numbers and runs no code.

Shapes: B rows · T tokens · P learned positions, b of a block · V vocabulary.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from slimgpt.errors import NumericalError
from slimgpt.evaluation.predictions import Targets, divergence_loss, targets_of
from slimgpt.evaluation.vocabulary import blended, summed_loss, token_loss
from slimgpt.recovery import checkpoints, compiling
from slimgpt.recovery.batches import Rows, make_batch, take_targets
from slimgpt.recovery.checkpoints import Checkpoint
from slimgpt.recovery.hidden_states import hidden_state_error
from slimgpt.recovery.job import Job
from slimgpt.recovery.observer import RecoverObserver
from slimgpt.recovery.packing import learned
from slimgpt.recovery.targets import TargetStore

LOGS = 100  # losses noted in a run


class RecoveryTrainer(Trainer):
    """Learns the data's tokens, or a teacher's predictions where the batches carry them.

    Args:
        model: what learns, with adapters or whole.
        job: the run.
        store: the teacher's targets of all training rows; None without a teacher, or with one that is here.
        teacher: runs at each step, for its hidden states as well; None leaves them out.
        observer: who watches.
        measure_first: measure held-out perplexity before the first step too.
    """

    def __init__(
        self,
        model: Any,
        job: Job,
        store: TargetStore | None,
        teacher: Any | None,
        observer: RecoverObserver,
        measure_first: bool,
    ) -> None:
        self._held_out = Rows(job.held_out)
        super().__init__(
            model=model,
            args=arguments(job, measure_first),
            data_collator=partial(make_batch, length=job.config.seqlen if job.config.compile else 0),
            train_dataset=Rows(job.train, store),
            eval_dataset=self._held_out,
            compute_metrics=_perplexity,
            callbacks=[*_early_stop(job), _Watcher(observer)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the whole optimiser step
        self._settings = job.config
        self._bfloat16 = job.bfloat16
        self._teacher = teacher

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The batch's share of the mean loss over all learned tokens of the optimiser step, of all processes."""
        labels_BT, targets = inputs.pop("labels"), take_targets(inputs)
        learned_BT = learned(labels_BT)
        theirs = self._taught(inputs)
        if theirs is not None:
            targets = targets_of(theirs.logits, learned_BT, self._settings.top_k, self._settings.temperature)
        outputs = model(**inputs, use_cache=False, output_hidden_states=theirs is not None)
        total = self._vocabulary_loss(outputs.logits, labels_BT, targets)
        if theirs is not None:
            error = hidden_state_error(outputs.hidden_states, theirs.hidden_states, learned_BT)
            total = total + self._settings.hidden_weight * error
        loss = total * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _taught(self, inputs: dict[str, Any]) -> Any:
        """What the teacher says and thinks, where its hidden states are wanted."""
        if self._teacher is None:
            return None
        return self._teacher(**inputs, use_cache=False, output_hidden_states=True)

    def _vocabulary_loss(self, logits_BTV: Tensor, labels_BT: Tensor, targets: Targets | None) -> Tensor:
        """Of the text's own tokens, or of the teacher's predictions with a share of those."""
        learned_BT, share, temperature = learned(labels_BT), self._settings.label_share, self._settings.temperature
        tokens = token_loss(labels_BT[:, 1:][learned_BT])
        if targets is None:
            return summed_loss(logits_BTV, learned_BT, tokens)
        predictions = divergence_loss(targets)
        if not share:
            return summed_loss(logits_BTV, learned_BT, predictions, temperature)
        if temperature == 1:  # the same probabilities: one pass
            return summed_loss(logits_BTV, learned_BT, blended(predictions, tokens, share))
        of_predictions = summed_loss(logits_BTV, learned_BT, predictions, temperature)
        return torch.lerp(of_predictions, summed_loss(logits_BTV, learned_BT, tokens), share)

    def go_on(self, before: Checkpoint | None) -> None:
        """Train, from a checkpoint if there is one; one that training has ended with is only taken up.

        (Trainer would make one more step of it where it was reached within an epoch.)
        """
        if before is None or not before.ended:
            self.train(resume_from_checkpoint=before and str(before.folder))
            return
        self.state = TrainerState.load_from_json(str(before.folder / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(before.best or before.folder))

    @property
    def kept_perplexity(self) -> float:
        """Held-out perplexity of what the run keeps: of its best checkpoint, or of the last measurement."""
        log = self.state.log_history
        measured = [row["eval_perplexity"] for row in log if row["step"] and "eval_perplexity" in row]
        return min(measured) if self._settings.keep == "best" else measured[-1]

    def held_out_perplexity(self) -> float:
        """Of the model as it is now; nobody is told."""
        metrics = self.predict(self._held_out).metrics
        assert metrics is not None, "compute_metrics is given"
        return metrics["test_perplexity"]

    def compute_loss_context_manager(self) -> ExitStack[Any]:
        """bfloat16 matrix products, by us: accelerate's own way turns all logits to float32 on leaving the model."""
        stack: ExitStack[Any] = ExitStack()
        stack.enter_context(torch.autocast(self.args.device.type, torch.bfloat16, enabled=self._bfloat16))
        return stack

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row the summed negative log-likelihood and the number of tokens it is over, B each."""
        inputs = self._prepare_inputs(inputs)
        labels_BT = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager(), compiling.as_written():
            logits_BTV = model(**inputs, use_cache=False).logits
            rows = zip(logits_BTV.split(1), labels_BT.split(1), strict=True)
            nll_B = torch.stack([_negative_log_likelihood(*row) for row in rows])
        count_B = learned(labels_BT).sum(1)
        return nll_B.sum() / count_B.sum(), nll_B, count_B


def _negative_log_likelihood(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    learned_BT = learned(labels_BT)
    return summed_loss(logits_BTV, learned_BT, token_loss(labels_BT[:, 1:][learned_BT]))


def _perplexity(found: EvalPrediction) -> dict[str, float]:
    """Over all tokens of all rows; by row, because batches differ in their number of tokens."""
    nll: Any = found.predictions
    mean = float(nll.sum() / found.label_ids.sum())  # type: ignore[union-attr]
    return {"perplexity": math.exp(mean) if mean < 700 else math.inf}


class _Watcher(TrainerCallback):
    """Passes on what happens, and stops a run whose loss is no number any more."""

    def __init__(self, observer: RecoverObserver) -> None:
        self._observer = observer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._observer.stepped(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise NumericalError(
                f"the training loss is {loss} at step {state.global_step}: lower --learning-rate, or use "
                "--precision float32."
            )
        self._observer.noted(loss)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._observer.measured(state.global_step, kwargs["metrics"]["eval_perplexity"])


def arguments(job: Job, measure_first: bool) -> TrainingArguments:
    """Our options in Trainer's words."""
    config = job.config
    made = TrainingArguments(
        output_dir=str(checkpoints.folder_of(job)),
        per_device_train_batch_size=job.micro_batch_size,
        per_device_eval_batch_size=job.micro_batch_size,
        gradient_accumulation_steps=job.accumulation,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.peak_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=0.95,  # a memory of twenty steps: runs are short
        logging_strategy="steps",
        logging_steps=_steps_between_logs(job),
        logging_nan_inf_filter=False,  # a loss that is no number is an error, not a zero
        eval_on_start=measure_first,
        eval_strategy="steps",
        eval_steps=job.eval_every,
        save_strategy="steps",
        save_steps=job.eval_every,
        restore_callback_states_from_checkpoint=True,  # how long ago the best one was
        load_best_model_at_end=config.keep == "best",
        metric_for_best_model="eval_perplexity",
        greater_is_better=False,
        use_cpu=job.device.type == "cpu",
        ddp_backend="gloo" if job.device.type == "cpu" and job.processes.size > 1 else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=job.device.type == "cuda",
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
        log_level_replica="error",
        seed=config.seed,
    )
    if made.n_gpu > 1:  # one process takes one GPU: several are for accelerate launch
        made._n_gpu = 1
    return made


def _early_stop(job: Job) -> list[EarlyStoppingCallback]:
    return [EarlyStoppingCallback(job.config.patience)] if job.config.keep == "best" else []


def _steps_between_logs(job: Job) -> int:
    """About a hundredth of the run, and one log with each checkpoint: a run that goes on has no loss of before."""
    return max(steps for steps in range(1, max(1, job.num_steps // LOGS) + 1) if job.eval_every % steps == 0)
