"""The tables of the ledger, as the steps that lead to them.

A new ledger takes all steps, an older one those that it lacks, so that both end up the same. What the daemon asks at
every tick or scan must not walk over all rows, which may be a million: each of those questions has an index here that
holds only the rows it is about, and the number of voices in each state is kept up to date by triggers.
"""

from __future__ import annotations

from voicekiln.folders.names import PICKLED_TABLES

TURN = "first_seen + json_extract(stamp, '$[1]') / 5000000.0"
"""`Voice.turn` for the database, with the number that `voices.BYTES_A_SECOND` has: an index is made of it."""

WAITING = "state NOT IN ('done', 'refused') AND next_try IS NULL"
"""Something is to be done, and not only later; as an index needs to find it in a question, word for word."""

_FIRST = """
CREATE TABLE voices (
    id INTEGER PRIMARY KEY,
    relpath BLOB NOT NULL UNIQUE,
    recipe TEXT NOT NULL,
    taken TEXT,
    stamp TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    next_try REAL,
    first_seen REAL NOT NULL,
    finished REAL,
    sha256 TEXT,
    key TEXT,
    job TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    ending TEXT,
    base BLOB,
    source TEXT NOT NULL DEFAULT 'there'
);
CREATE INDEX voices_by_state ON voices (state);
CREATE INDEX voices_by_key ON voices (key);
CREATE TABLE names (fold BLOB PRIMARY KEY, voice INTEGER NOT NULL REFERENCES voices ON DELETE CASCADE);
CREATE TABLE files (
    path BLOB PRIMARY KEY,
    voice INTEGER NOT NULL REFERENCES voices ON DELETE CASCADE,
    kind TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    published REAL NOT NULL
);
CREATE INDEX files_by_voice ON files (voice);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

# `files.published` and `voices.rested` are seconds of the ledger's own clock, which began as the wall clock.
_SECOND = f"""
ALTER TABLE files ADD COLUMN stamp TEXT;
ALTER TABLE voices ADD COLUMN rested REAL;
UPDATE voices SET rested = finished;
CREATE INDEX names_by_voice ON names (voice);
CREATE INDEX files_by_age ON files (kind, published, voice);
CREATE INDEX voices_there ON voices (relpath, id, stamp, state, source, job) WHERE source = 'there';
CREATE INDEX voices_left ON voices (id, state) WHERE source != 'there';
CREATE INDEX voices_by_rest ON voices (rested) WHERE state = 'done' AND source = 'there';
CREATE INDEX voices_by_turn ON voices (state, {TURN}) WHERE {WAITING};
CREATE INDEX voices_by_age ON voices (first_seen);
CREATE INDEX voices_with_job ON voices (job) WHERE job IS NOT NULL;
CREATE INDEX voices_put_off ON voices (next_try) WHERE next_try IS NOT NULL;
CREATE TABLE tally (state TEXT PRIMARY KEY, voices INTEGER NOT NULL);
INSERT INTO tally SELECT state, count(*) FROM voices GROUP BY state;
CREATE TRIGGER voice_came AFTER INSERT ON voices BEGIN
    INSERT INTO tally VALUES (NEW.state, 1) ON CONFLICT (state) DO UPDATE SET voices = voices + 1; END;
CREATE TRIGGER voice_went AFTER DELETE ON voices BEGIN
    UPDATE tally SET voices = voices - 1 WHERE state = OLD.state; END;
CREATE TRIGGER voice_went_on AFTER UPDATE OF state ON voices WHEN OLD.state != NEW.state BEGIN
    UPDATE tally SET voices = voices - 1 WHERE state = OLD.state; \
    INSERT INTO tally VALUES (NEW.state, 1) ON CONFLICT (state) DO UPDATE SET voices = voices + 1; END;
"""  # noqa: S608 - all of it is ours

# What the status page asks: the newest of a state, and sums over all. `took_ms` is what a conversion took.
_THIRD = """
ALTER TABLE voices ADD COLUMN took_ms INTEGER;
DROP INDEX voices_by_state;
CREATE INDEX voices_by_state ON voices (state, finished);
CREATE TABLE totals (
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    took_ms INTEGER NOT NULL
);
INSERT INTO totals SELECT
    (SELECT coalesce(sum(json_extract(stamp, '$[1]')), 0) FROM voices WHERE state = 'done'),
    (SELECT coalesce(sum(bytes), 0) FROM files), 0, 0;
CREATE TRIGGER result_came AFTER INSERT ON voices WHEN NEW.state = 'done' BEGIN
    UPDATE totals SET bytes_in = bytes_in + json_extract(NEW.stamp, '$[1]'), \
    timed = timed + (NEW.took_ms IS NOT NULL), took_ms = took_ms + coalesce(NEW.took_ms, 0); END;
CREATE TRIGGER result_went AFTER DELETE ON voices WHEN OLD.state = 'done' BEGIN
    UPDATE totals SET bytes_in = bytes_in - json_extract(OLD.stamp, '$[1]'), \
    timed = timed - (OLD.took_ms IS NOT NULL), took_ms = took_ms - coalesce(OLD.took_ms, 0); END;
CREATE TRIGGER result_was AFTER UPDATE OF state, stamp, took_ms ON voices WHEN OLD.state = 'done' BEGIN
    UPDATE totals SET bytes_in = bytes_in - json_extract(OLD.stamp, '$[1]'), \
    timed = timed - (OLD.took_ms IS NOT NULL), took_ms = took_ms - coalesce(OLD.took_ms, 0); END;
CREATE TRIGGER result_is AFTER UPDATE OF state, stamp, took_ms ON voices WHEN NEW.state = 'done' BEGIN
    UPDATE totals SET bytes_in = bytes_in + json_extract(NEW.stamp, '$[1]'), \
    timed = timed + (NEW.took_ms IS NOT NULL), took_ms = took_ms + coalesce(NEW.took_ms, 0); END;
CREATE TRIGGER file_came AFTER INSERT ON files BEGIN
    UPDATE totals SET bytes_out = bytes_out + NEW.bytes; END;
CREATE TRIGGER file_went AFTER DELETE ON files BEGIN
    UPDATE totals SET bytes_out = bytes_out - OLD.bytes; END;
CREATE TRIGGER file_changed AFTER UPDATE OF bytes ON files BEGIN
    UPDATE totals SET bytes_out = bytes_out + NEW.bytes - OLD.bytes; END;
"""

# Published results that may be parts of a bundle, by their sidecars, as they were when they were published; and the
# folders in which one came, changed or went since their bundle was written.
_FOURTH = """
CREATE TABLE parts (
    path BLOB PRIMARY KEY REFERENCES files ON DELETE CASCADE,
    folder BLOB NOT NULL,
    role TEXT NOT NULL,
    ending TEXT NOT NULL
);
CREATE INDEX parts_by_folder ON parts (folder, role);
CREATE TABLE unbundled (turn INTEGER PRIMARY KEY AUTOINCREMENT, folder BLOB NOT NULL UNIQUE);
CREATE TRIGGER part_came AFTER INSERT ON parts BEGIN
    INSERT OR REPLACE INTO unbundled (folder) VALUES (NEW.folder); END;
CREATE TRIGGER part_went AFTER DELETE ON parts BEGIN
    INSERT OR REPLACE INTO unbundled (folder) VALUES (OLD.folder); END;
"""

# What was refused for its content is judged anew: more families are known since.
_JUDGED_ANEW = """
UPDATE voices SET state = 'settling', key = NULL, ending = NULL, job = NULL, reason = '', next_try = NULL \
    WHERE state = 'refused' AND source = 'there' AND json_extract(stamp, '$[1]') > 0;
"""

# The companions of which copies lie in the spool, or of which the ending was made: JSON, their hashes by their names.
_FIFTH = f"""
ALTER TABLE voices ADD COLUMN beside TEXT;
{_JUDGED_ANEW}
"""

# `PICKLED_TABLES` of `names` are no voices any more. Their refusals are swept as those of sources that are gone; judged
# anew, they would stay. (To `LIKE`, case is one and "_" anything: a voice that fits is seen by the next scan.)
_A_TABLE = " OR ".join(f"'/' || CAST(relpath AS TEXT) LIKE '%/{name}'" for name in PICKLED_TABLES)
_SIXTH = f"""
UPDATE voices SET state = 'refused', source = 'gone', job = NULL, reason = '', next_try = NULL \
    WHERE state IN ('settling', 'incomplete', 'refused') AND source = 'there' AND ({_A_TABLE});
{_JUDGED_ANEW}
"""  # noqa: S608 - ours

_ALL = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH)
STEPS: tuple[tuple[str, ...], ...] = tuple(tuple(step.strip().split(";\n")) for step in _ALL)
"""The statements of each."""

LAYOUT = len(STEPS)
"""How many steps were taken; kept in the database's `user_version`."""
