-- Make the history views again that drop_histories.sql has dropped, with the owners and the rights that they had.
-- Locks: none that anybody could wait for.
do $$
declare
    one record;
    granted record;
begin
    for one in select * from pg_temp.tidelog_histories loop
        perform streams.make_history(one.name, one.table_name);
        execute format('alter view %s owner to %I', one.view, one.owner);
        for granted in select * from aclexplode(one.relacl) loop
            execute format('grant %s on %s to %s', granted.privilege_type, one.view,
                case granted.grantee when 0 then 'public' else granted.grantee::regrole::text end);
        end loop;
    end loop;
    drop table pg_temp.tidelog_histories;
end
$$;
