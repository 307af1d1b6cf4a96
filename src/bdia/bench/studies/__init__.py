"""Studies that train nothing: each measures one thing of the paper on models as they are, and writes one record."""
