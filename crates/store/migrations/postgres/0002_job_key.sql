-- What the results of jobs depend on, so that a job need not run again while that is the same.

CREATE TABLE job_key (
    run BIGINT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    job BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    project BIGINT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    name TEXT NOT NULL,                   -- of the job
    key TEXT NOT NULL,                    -- a digest
    scope TEXT NOT NULL,                  -- '': for every run; else only for runs of this scope
    parts TEXT NOT NULL,                  -- what the key is made of: the digest of an object
    usable BOOLEAN NOT NULL,  -- a success of its own that other runs may take
    PRIMARY KEY (run, job, attempt)
);
CREATE INDEX job_key_key ON job_key (project, key, run);
CREATE INDEX job_key_name ON job_key (project, name, run);
CREATE INDEX job_key_parts ON job_key (parts);
