"""Contents: the files of tables, images and artifacts, from their upload until every backend has them."""
