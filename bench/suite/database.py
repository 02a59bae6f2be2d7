"""The database that each test has of its own: a cluster of Debian's package, prepared once for all tests.

No more is imported here than what both contenders and who runs them have.
"""

NAME = "postgresql"  # of the template, and of the image
VERSION = "15"  # what Debian 12 has
TESTS, DONE = "VE_BENCH_TESTS", "VE_BENCH_DONE"  # how many tests there are, and where each leaves a mark
ROWS = 1000  # that are there when a test begins
SERVER = ("pg_ctlcluster", "--foreground", VERSION, "main", "start")
READY = "database system is ready to accept connections"

_CONFIGURATION = f"/etc/postgresql/{VERSION}/main"
# A shell's lines, while the server runs.  What testcontainers calls the user and the database is taken for both.
# Nobody wants to have a test's database after a power cut.
PREPARE = f"""
    cd /
    runuser -u postgres -- psql -qv ON_ERROR_STOP=1 <<EOF
        CREATE ROLE test SUPERUSER LOGIN PASSWORD 'test';
        CREATE DATABASE test OWNER test;
        \\connect test
        CREATE TABLE item (id integer PRIMARY KEY, price integer NOT NULL);
        INSERT INTO item SELECT each, each % 7 FROM generate_series(1, {ROWS}) AS each;
        ALTER TABLE item OWNER TO test;
EOF
    printf '%s\\n' "listen_addresses = '*'" 'fsync = off' >{_CONFIGURATION}/conf.d/suite.conf
    echo 'host all all all scram-sha-256' >>{_CONFIGURATION}/pg_hba.conf
"""
