-- The tables that a push needs to become a run, and a run to be watched and kept.
--
-- Times are milliseconds since the epoch. JSON is kept as the text that was frozen. What is large
-- (plans, events) stands apart from what is listed (runs, jobs). Ids are never used again, because
-- files are named by them.

CREATE TABLE project (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    repo TEXT NOT NULL,
    default_branch TEXT,
    poll_every_s INTEGER,                 -- NULL: not polled
    last_number INTEGER NOT NULL DEFAULT 0,  -- of its newest run; counts without gaps
    created_at INTEGER NOT NULL
) STRICT;

-- Refs as last seen: what a poll compares with.
CREATE TABLE head (
    project INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    ref TEXT NOT NULL,                    -- refs/heads/main
    commit_id TEXT NOT NULL,
    PRIMARY KEY (project, ref)
) STRICT, WITHOUT ROWID;

-- The inbox: pushes that were acknowledged.
CREATE TABLE delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    key TEXT NOT NULL,                    -- the same push told twice has the same key
    body TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'quarantined')),
    note TEXT NOT NULL DEFAULT '',        -- what came of it, or why the last try failed
    n_tries INTEGER NOT NULL DEFAULT 0,
    received_at INTEGER NOT NULL,
    UNIQUE (project, key)
) STRICT;
CREATE INDEX delivery_pending ON delivery (id) WHERE state = 'pending';
CREATE INDEX delivery_quarantined ON delivery (id) WHERE state = 'quarantined';

CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,                          -- JSON
    trigger TEXT NOT NULL,                -- JSON
    source TEXT NOT NULL,                 -- JSON
    branch TEXT,                          -- of the trigger, for lists
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    n_jobs INTEGER NOT NULL,
    n_jobs_over INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,            -- compare-and-set: whoever appends must have seen it
    UNIQUE (project, number)
) STRICT;
CREATE INDEX run_project_branch ON run (project, branch, number) WHERE branch IS NOT NULL;
CREATE INDEX run_project_state ON run (project, state, number);
CREATE INDEX run_branch ON run (branch, id) WHERE branch IS NOT NULL;
CREATE INDEX run_state ON run (state, id);

CREATE TABLE plan (
    run INTEGER PRIMARY KEY REFERENCES run (id) ON DELETE CASCADE,
    body TEXT NOT NULL                    -- JSON, frozen
) STRICT;

CREATE TABLE event (
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,                 -- from 1, without gaps
    job INTEGER,                          -- of the lease that it speaks of
    body TEXT NOT NULL,                   -- JSON
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_job ON event (run, job, seq) WHERE job IS NOT NULL;

CREATE TABLE job (
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    job INTEGER NOT NULL,                 -- place in the plan
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,                          -- JSON
    attempt INTEGER NOT NULL,             -- the newest; 0: none yet
    started_at INTEGER,
    finished_at INTEGER,
    log_bytes INTEGER NOT NULL,
    PRIMARY KEY (run, job)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifact (
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    job INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    path TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    digest TEXT NOT NULL,
    executable INTEGER NOT NULL CHECK (executable IN (0, 1)),
    PRIMARY KEY (run, job, attempt, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE agent (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    labels TEXT NOT NULL                  -- JSON
) STRICT;

CREATE TABLE secret (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER REFERENCES project (id) ON DELETE CASCADE,  -- NULL: of every project
    name TEXT NOT NULL,
    sealed BLOB NOT NULL,                 -- ciphertext
    set_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX secret_name ON secret (COALESCE(project, 0), name);
CREATE INDEX secret_project ON secret (project);
