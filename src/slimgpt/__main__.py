"""``python -m slimgpt`` is the ``slimgpt`` command (and what torchrun starts)."""

import sys

from slimgpt.cli import main

sys.exit(main())
