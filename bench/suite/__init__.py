"""What `make bench-suite` measures: tests that have a PostgreSQL each, by ve's fixtures and by testcontainers.

The tests are bench/suite/cases.py, which take what they connect to from bench/suite/of_ve.py, or from
bench/suite/of_testcontainers.py over podman.  Both have the same root file system and the same prepared database.
"""
