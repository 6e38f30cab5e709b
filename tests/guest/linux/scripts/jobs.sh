sleep 0.2 & sleep 0.1 & wait
echo waited
(exit 7) & wait $!
echo $?
(sleep 0.1
echo late) & echo early
wait
for i in 1 2 3 4 5
do (exit $i) & p="$p $!"
done
for x in $p
do wait $x
echo $?
done
sleep 5 & kill $!
wait $!
echo $?
(sleep 0.05
kill -TERM $$) & trap 'echo term
exit 9' TERM
sleep 1
wait
echo not
