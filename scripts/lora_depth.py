"""Memory and time of a Hugging Face decoder over depth, LoRA and full. Run: python scripts/lora_depth.py"""

from bdia.bench.lora_depth import main

if __name__ == "__main__":
    main()
