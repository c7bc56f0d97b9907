"""Documents to windows of tokens, at random but repeatable, with bounded memory.

Shapes: B windows · T tokens of a window · S tokens of the whole pool.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slimgpt.calibration.row_text import TEXT_FIELD, RowText
from slimgpt.calibration.sources import Source, resolve
from slimgpt.errors import CalibrationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Windows are drawn from a pool of this many characters for each token asked: about four times the tokens in
# English, and enough in any language, since text of fewer than one token per 16 characters is not prose.
POOL_CHARS_PER_TOKEN = 16

# A local corpus is sampled over this much of its text, in file order; the rest is left unread, so that a
# corpus of any size takes seconds.
LOCAL_CHARS = 2**30

DOCUMENT_BREAK = "\n\n"
DOCUMENTS_PER_BATCH = 64


def windows(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    num_windows: int,
    seqlen: int,
    seed: int,
    first: Sequence[int] = (),
    text_field: str = TEXT_FIELD,
) -> Tensor:
    """Random windows of tokens that do not overlap, as int64 ``windows_BT`` on the CPU.

    A pool of documents of about four times the asked tokens is tokenised, document after document, each with
    a blank line behind it and without special tokens; the stream is cut into windows from a random offset
    on, and ``num_windows`` of them are drawn. Files and folders give a uniform random sample of
    their documents (the first 2³⁰ characters are read) in their own order; a hub data set gives the first
    documents of a shard that the seed chooses and is read no further; ``builtin`` gives its first documents.

    Args:
        source: ``builtin``; ``c4``; a text, JSONL, CSV, TSV or Parquet file (also ``.gz``, ``.bz2``, ``.xz``,
            ``.zst``) or a folder of them; a hub id ``owner/name`` or ``owner/name:config``.
        tokenizer: of the model that will read the windows.
        num_windows: B, at least 1.
        seqlen: T, at least 2.
        seed: the same seed gives the same windows.
        first: what every window begins with, in the place of as many tokens of text.
        text_field: the column of tables that holds the text, or chat messages, which the tokenizer's template renders.

    Raises:
        CalibrationError: the source cannot be read, or is too short.
    """
    _check_sizes(num_windows, seqlen)
    rng = random.Random(seed)
    pool_chars = POOL_CHARS_PER_TOKEN * num_windows * seqlen
    pool = _pool(resolve(source, RowText(text_field, tokenizer)), pool_chars, seed, rng)
    if not pool:
        raise CalibrationError(f"calibration source {source!r} is empty; give one with text, or 'builtin'")
    stream_S = _tokens(pool, tokenizer)
    width = seqlen - len(first)
    _check_length(source, len(stream_S), num_windows, width)
    text_BT = _draw(stream_S, num_windows, width, rng)
    return torch.cat([torch.tensor(first, dtype=torch.int64).expand(num_windows, -1), text_BT], dim=1)


def fingerprint(windows_BT: Tensor) -> str:
    """SHA-256 of windows, shape and tokens, in hexadecimal; the same on every machine."""
    tokens_BT = windows_BT.to("cpu", torch.int64).contiguous().numpy().astype("<i8")
    return hashlib.sha256(repr(tokens_BT.shape).encode() + tokens_BT.tobytes()).hexdigest()


def _pool(source: Source, pool_chars: int, seed: int, rng: random.Random) -> list[str]:
    texts = (text.strip("\n") for text in source.documents(seed) if text.strip())
    num_chars = max(LOCAL_CHARS, pool_chars) if source.whole else pool_chars
    return _reservoir(_beginning(texts, num_chars), pool_chars, rng)


def _beginning(texts: Iterable[str], num_chars: int) -> Iterator[str]:
    """The first documents, the last one being that which completes ``num_chars``; no other is read."""
    for text in texts:
        yield text
        num_chars -= len(text)
        if num_chars <= 0:
            return


def _reservoir(texts: Iterable[str], pool_chars: int, rng: random.Random) -> list[str]:
    """A uniform sample of documents that just reaches ``pool_chars``, or all of them, in their own order.

    Each document draws a key and the smallest keys stay: the beginning of a random permutation, found in
    one pass that holds little more than the sample. The order is kept, since passages of one file read on.
    """
    heap: list[tuple[float, int, str]] = []
    held_chars = 0
    for index, text in enumerate(texts):
        heapq.heappush(heap, (-rng.random(), index, text))
        held_chars += len(text)
        while held_chars - len(heap[0][2]) >= pool_chars:
            held_chars -= len(heapq.heappop(heap)[2])
    return [text for _, _, text in sorted(heap, key=itemgetter(1))]


def _tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The token stream_S; documents are tokenised apart, so no token spans two of them."""
    remaining = iter(texts)
    parts = []
    while batch := [text + DOCUMENT_BREAK for text in islice(remaining, DOCUMENTS_PER_BATCH)]:
        # verbose=False: documents may be longer than the model's context, the windows are not
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
        parts += [torch.tensor(ids, dtype=torch.int64) for ids in encoded["input_ids"]]
    return torch.cat(parts)


def _draw(stream_S: Tensor, num_windows: int, seqlen: int, rng: random.Random) -> Tensor:
    spare = len(stream_S) - num_windows * seqlen
    offset = rng.randint(0, min(spare, seqlen - 1))  # text that just suffices has no room for an offset
    num_whole = (len(stream_S) - offset) // seqlen
    whole_BT = stream_S[offset : offset + num_whole * seqlen].view(num_whole, seqlen)
    return whole_BT[rng.sample(range(num_whole), num_windows)]


def _check_sizes(num_windows: int, seqlen: int) -> None:
    if num_windows < 1:
        raise CalibrationError(f"{num_windows} calibration windows asked; ask for at least 1, usually 128")
    if seqlen < 2:
        raise CalibrationError(f"calibration windows of {seqlen} tokens asked; ask for at least 2, usually 2048")


def _check_length(source: str, num_tokens: int, num_windows: int, seqlen: int) -> None:
    if num_tokens < num_windows * seqlen:
        raise CalibrationError(
            f"calibration source {source!r} has {num_tokens} tokens, enough for "
            f"{num_tokens // seqlen} windows of {seqlen} and not for {num_windows}; give more text, or ask "
            "for fewer or shorter windows"
        )
