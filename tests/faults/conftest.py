"""The fixtures of the verbs' tests that these have too."""

from tests.verbs.conftest import make as make
