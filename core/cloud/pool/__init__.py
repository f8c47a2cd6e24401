"""The API pool behind `core.cloud.api_manager`: pure decisions, two drivers, one state an endpoint."""
