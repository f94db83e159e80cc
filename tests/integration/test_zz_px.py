import sys; sys.path.insert(0,'/work/main')
from tests.integration.test_mysql_snapshot_reader import *
from tests.integration.test_mysql_snapshot_reader import _password
import gc
def test_px(any_mysql_database, monkeypatch):
    test_a_server_too_far_away_to_hold_its_locks_but_for_a_blink(any_mysql_database, monkeypatch)
    gc.collect()
