"""Tables, triggers and functions in the schema `streams`; in an installed Tidelog this is `tidelog.migrations`."""
