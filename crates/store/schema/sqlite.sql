-- Made from the migrations by the tests of kiln-store.
CREATE TABLE agent (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    labels TEXT NOT NULL                  -- JSON
) STRICT;
CREATE TABLE artifact (
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    job INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    path TEXT NOT NULL,
    n_bytes INTEGER NOT NULL,
    digest TEXT NOT NULL,
    executable INTEGER NOT NULL CHECK (executable IN (0, 1)), collected_at INTEGER,
    PRIMARY KEY (run, job, attempt, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_digest ON artifact (digest) WHERE collected_at IS NULL;
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
CREATE TABLE event (
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,                 -- from 1, without gaps
    job INTEGER,                          -- of the lease that it speaks of
    body TEXT NOT NULL,                   -- JSON
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_job ON event (run, job, seq) WHERE job IS NOT NULL;
CREATE TABLE head (
    project INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    ref TEXT NOT NULL,                    -- refs/heads/main
    commit_id TEXT NOT NULL,
    PRIMARY KEY (project, ref)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE job_key (
    run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    job INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    project INTEGER NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    name TEXT NOT NULL,                   -- of the job
    key TEXT NOT NULL,                    -- a digest
    scope TEXT NOT NULL,                  -- '': for every run; else only for runs of this scope
    parts TEXT NOT NULL,                  -- what the key is made of: the digest of an object
    usable INTEGER NOT NULL CHECK (usable IN (0, 1)),  -- a success of its own that other runs may take
    PRIMARY KEY (run, job, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_key_key ON job_key (project, key, run);
CREATE INDEX job_key_name ON job_key (project, name, run);
CREATE INDEX job_key_parts ON job_key (parts);
CREATE TABLE plan (
    run INTEGER PRIMARY KEY REFERENCES run (id) ON DELETE CASCADE,
    body TEXT NOT NULL                    -- JSON, frozen
) STRICT;
CREATE TABLE project (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    repo TEXT NOT NULL,
    default_branch TEXT,
    poll_every_s INTEGER,                 -- NULL: not polled
    last_number INTEGER NOT NULL DEFAULT 0,  -- of its newest run; counts without gaps
    created_at INTEGER NOT NULL
) STRICT;
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
    last_seq INTEGER NOT NULL, pinned_at INTEGER, pinned_by TEXT, logs_collected_at INTEGER, log_bytes INTEGER, gone_at INTEGER,            -- compare-and-set: whoever appends must have seen it
    UNIQUE (project, number)
) STRICT;
CREATE INDEX run_project_branch ON run (project, branch, number) WHERE branch IS NOT NULL;
CREATE INDEX run_project_state ON run (project, state, number);
CREATE INDEX run_branch ON run (branch, id) WHERE branch IS NOT NULL;
CREATE INDEX run_state ON run (state, id);
CREATE INDEX run_pinned ON run (id) WHERE pinned_at IS NOT NULL;
CREATE INDEX run_gone ON run (id) WHERE gone_at IS NOT NULL;
CREATE INDEX run_unpacked ON run (finished_at) WHERE log_bytes IS NULL AND finished_at IS NOT NULL;
CREATE TABLE schema_version (
            version INTEGER NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            checksum TEXT NOT NULL,
            kiln TEXT NOT NULL,
            applied_at INTEGER NOT NULL
        );
CREATE TABLE secret (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER REFERENCES project (id) ON DELETE CASCADE,  -- NULL: of every project
    name TEXT NOT NULL,
    sealed BLOB NOT NULL,                 -- ciphertext
    set_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX secret_name ON secret (COALESCE(project, 0), name);
CREATE INDEX secret_project ON secret (project);
