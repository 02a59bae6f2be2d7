"""What `make bench` and `make bench-quick` measure: the table is bench/rows.py, where it is measured bench/place.py."""
