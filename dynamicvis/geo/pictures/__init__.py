"""Pictures of results: quicklook, preview, legend."""
