-- What a model has beside its ONNX file: role, name, digest and size of each, as JSON.
ALTER TABLE artifacts ADD COLUMN files TEXT NOT NULL DEFAULT '[]';
