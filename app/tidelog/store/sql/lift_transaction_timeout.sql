-- No transaction_timeout for this session, whatever role or database say. It is Postgres 17's; an older server
-- refuses a connection that names it among its settings.
select set_config(name, '0', false) from pg_settings where name = 'transaction_timeout'
