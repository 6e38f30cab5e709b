echo a b c d e | xargs -n 2 echo
seq 1 2000 | xargs | wc
seq 10 | xargs -I{} echo "<{}>"
echo 1 2 3 | xargs -n1 sh -c 'exit 0'
echo x | xargs false
echo $?
echo x | xargs nothere
echo $?
seq 5 | xargs -P 2 -n 1 echo | sort
printf 'a b\0c\0' | xargs -0 -n1 echo
