"""The command `bdia <verb>`: one small file per verb, one grammar (`key=value`)."""
