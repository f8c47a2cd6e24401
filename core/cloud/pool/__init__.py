"""The API pool behind `core.cloud.api_manager`: pure decisions, two drivers, one book an endpoint."""
