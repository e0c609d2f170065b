-- What the results of jobs depend on, so that a job need not run again while that is the same.

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
