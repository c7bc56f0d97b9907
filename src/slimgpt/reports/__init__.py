"""What people see: tables and progress on the terminal, pages and figures.

Comes in: records, results, whatever a run tells its observer. Goes out: terminal, pages, figures.
"""
