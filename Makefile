# Each verb is one line of tools/dev.py, which works without make too.  Arguments: make test ARGS="-k name"
.PHONY: demo test bench crash storm soak lint clean
demo test bench crash storm soak lint clean:
	@python3 tools/dev.py $@ $(ARGS)
