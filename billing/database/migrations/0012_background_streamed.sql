-- Whether a client could read of a response in the background before it was done: what it has read is known to nobody here.
ALTER TABLE background_jobs ADD COLUMN streamed boolean NOT NULL DEFAULT false;
