"""What the command's exit code says."""

from __future__ import annotations

OK, BROKEN, USAGE, TOO_MANY_FAILED, TIME_IS_UP, STOPPED = 0, 1, 2, 3, 4, 130
EXIT_CODES = f"""exit codes:
  {OK}    every image has its row, and no more failed than --max-failed allows
  {BROKEN}    the job broke; the message says why, and the same command goes on where it stopped
  {USAGE}    wrong usage, found before any work; or a Ray that does not start or answer
  {TOO_MANY_FAILED}    a larger share of rows failed than --max-failed allows; the table stands all the same
  {TIME_IS_UP}    the time that --until names came first; what was captioned by then is kept
  {STOPPED}  stopped (SIGTERM, Ctrl-C); what was captioned by then is kept"""
